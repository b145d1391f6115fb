//! Keys of Centrifugo 5, which are flat, under their names of version 6.

use serde_json::{Map, Value};

/// Keys that moved alone.
const RENAMED: &[(&str, &str)] = &[
    ("address", "http_server.address"),
    ("port", "http_server.port"),
    ("internal_address", "http_server.internal_address"),
    ("internal_port", "http_server.internal_port"),
    ("tls", "http_server.tls.enabled"),
    ("tls_cert", "http_server.tls.cert_pem"),
    ("tls_cert_pem", "http_server.tls.cert_pem"),
    ("tls_key", "http_server.tls.key_pem"),
    ("tls_key_pem", "http_server.tls.key_pem"),
    ("tls_client_ca", "http_server.tls.client_ca_pem"),
    ("tls_client_ca_pem", "http_server.tls.client_ca_pem"),
    ("tls_autocert", "http_server.tls_autocert.enabled"),
    ("tls_external", "http_server.tls_external"),
    ("http3", "http_server.http3.enabled"),
    ("allowed_origins", "client.allowed_origins"),
    ("allow_anonymous_connect_without_token", "client.allow_anonymous_connect_without_token"),
    ("disallow_anonymous_connection_tokens", "client.disallow_anonymous_connection_tokens"),
    ("ping_interval", "client.ping_interval"),
    ("pong_timeout", "client.pong_timeout"),
    ("separate_subscription_token_config", "client.subscription_token.enabled"),
    ("user_subscribe_to_personal", "client.subscribe_to_user_personal_channel.enabled"),
    (
        "user_personal_channel_namespace",
        "client.subscribe_to_user_personal_channel.personal_channel_namespace",
    ),
    ("user_personal_single_connection", "client.subscribe_to_user_personal_channel.single_connection"),
    ("api_disable", "http_api.disabled"),
    ("namespaces", "channel.namespaces"),
    ("rpc_namespaces", "rpc.namespaces"),
    ("rpc_namespace_boundary", "rpc.namespace_boundary"),
    ("global_history_meta_ttl", "channel.history_meta_ttl"),
    ("channel_regex", "channel.without_namespace.channel_regex"),
    ("websocket_disable", "websocket.disabled"),
    ("usage_stats_disable", "usage_stats.disabled"),
    ("proxy_connect_endpoint", "client.proxy.connect.endpoint"),
    ("proxy_connect_timeout", "client.proxy.connect.timeout"),
    ("proxy_refresh_endpoint", "client.proxy.refresh.endpoint"),
    ("proxy_refresh_timeout", "client.proxy.refresh.timeout"),
    ("proxy_rpc_endpoint", "rpc.proxy.endpoint"),
    ("proxy_rpc_timeout", "rpc.proxy.timeout"),
    ("proxy_subscribe_endpoint", "channel.proxy.subscribe.endpoint"),
    ("proxy_subscribe_timeout", "channel.proxy.subscribe.timeout"),
    ("proxy_publish_endpoint", "channel.proxy.publish.endpoint"),
    ("proxy_publish_timeout", "channel.proxy.publish.timeout"),
    ("proxy_sub_refresh_endpoint", "channel.proxy.sub_refresh.endpoint"),
    ("proxy_sub_refresh_timeout", "channel.proxy.sub_refresh.timeout"),
];

/// Proxies that were on when they had an endpoint, and the keys that turn them on now.
const ON_WITH_ENDPOINT: [(&str, &str); 3] = [
    ("proxy_connect_endpoint", "client.proxy.connect.enabled"),
    ("proxy_refresh_endpoint", "client.proxy.refresh.enabled"),
    ("proxy_rpc_endpoint", "rpc.without_namespace.proxy_enabled"),
];

/// Beginnings of keys that became the name of a table, longer ones first.
const TABLES: [(&str, &str); 17] = [
    ("subscription_token_", "client.subscription_token."),
    ("token_", "client.token."),
    ("client_", "client."),
    ("channel_", "channel."),
    ("api_", "http_api."),
    ("websocket_", "websocket."),
    ("admin_", "admin."),
    ("log_", "log."),
    ("grpc_api_", "grpc_api."),
    ("prometheus_", "prometheus."),
    ("health_", "health."),
    ("redis_", "engine.redis."),
    ("nats_", "broker.nats."),
    ("graphite_", "graphite."),
    ("opentelemetry_", "opentelemetry."),
    ("tls_autocert_", "http_server.tls_autocert."),
    ("shutdown_", "shutdown."),
];

/// Tables of version 6 that were switches.
const SWITCHES: [&str; 14] = [
    "admin",
    "prometheus",
    "health",
    "swagger",
    "debug",
    "grpc_api",
    "opentelemetry",
    "graphite",
    "sse",
    "http_stream",
    "webtransport",
    "uni_websocket",
    "uni_sse",
    "uni_http_stream",
];

/// Options of channels that the root had for those without a namespace.
const CHANNEL_OPTIONS: [&str; 28] = [
    "presence",
    "join_leave",
    "force_push_join_leave",
    "history_size",
    "history_ttl",
    "history_meta_ttl",
    "force_positioning",
    "allow_positioning",
    "force_recovery",
    "allow_recovery",
    "force_recovery_mode",
    "allowed_delta_types",
    "delta_publish",
    "allow_subscribe_for_anonymous",
    "allow_subscribe_for_client",
    "allow_publish_for_anonymous",
    "allow_publish_for_subscriber",
    "allow_publish_for_client",
    "allow_presence_for_anonymous",
    "allow_presence_for_subscriber",
    "allow_presence_for_client",
    "allow_history_for_anonymous",
    "allow_history_for_subscriber",
    "allow_history_for_client",
    "allow_user_limited_channels",
    "subscribe_proxy_name",
    "publish_proxy_name",
    "sub_refresh_proxy_name",
];

/// Options of channels with other names.
const CHANNEL_OPTIONS_RENAMED: [(&str, &str); 4] = [
    ("proxy_subscribe", "subscribe_proxy_enabled"),
    ("proxy_publish", "publish_proxy_enabled"),
    ("proxy_sub_refresh", "sub_refresh_proxy_enabled"),
    ("proxy_subscribe_stream", "subscribe_stream_proxy_enabled"),
];

/// The configuration with its keys of version 5 renamed. Where both names are there, that of version 6 counts.
///
/// # Errors
/// If the file is no table.
pub(super) fn renamed(root: Value) -> Result<Value, String> {
    let Value::Object(keys) = root else { return Err("expected an object at the top".to_owned()) };
    let (mut new, mut old) = (Map::new(), Vec::new());
    for (key, value) in keys {
        match place(&key, &value) {
            Some(path) => old.push((key, path, value)),
            None => drop(new.insert(key, value)),
        }
    }
    let is_granular = new.remove("granular_proxy_mode") == Some(Value::Bool(true));
    for (key, path, mut value) in old {
        if let Some((_, switch)) = ON_WITH_ENDPOINT.iter().find(|(endpoint, _)| *endpoint == key) {
            insert(&mut new, switch, Value::Bool(value != ""));
        }
        if path == "broker.type" {
            insert(&mut new, "broker.enabled", Value::Bool(value != ""));
        }
        if path == "channel.namespaces" {
            rename_options(&mut value, is_granular);
        }
        insert(&mut new, &path, value);
    }
    Ok(Value::Object(new))
}

/// The path of a key of version 5; `None` for one of version 6.
fn place(key: &str, value: &Value) -> Option<String> {
    if let Some((_, path)) = RENAMED.iter().find(|(old, _)| *old == key) {
        return Some((*path).to_owned());
    }
    if let Some((_, option)) = CHANNEL_OPTIONS_RENAMED.iter().find(|(old, _)| *old == key) {
        return Some(format!("channel.without_namespace.{option}"));
    }
    if CHANNEL_OPTIONS.contains(&key) {
        return Some(format!("channel.without_namespace.{key}"));
    }
    if SWITCHES.contains(&key) && !value.is_object() {
        return Some(format!("{key}.enabled"));
    }
    if matches!(key, "engine" | "broker") && value.is_string() {
        return Some(format!("{key}.type"));
    }
    let table = TABLES.iter().find_map(|(old, new)| Some(format!("{new}{}", key.strip_prefix(old)?)));
    table.filter(|_| !value.is_object())
}

/// Gives the options of namespaces their names of version 6. With granular proxies, a name turned a proxy on.
fn rename_options(namespaces: &mut Value, is_granular: bool) {
    for options in namespaces.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        for (old, new) in CHANNEL_OPTIONS_RENAMED {
            if let Some(value) = options.remove(old) {
                options.entry(new).or_insert(value);
            }
        }
        for kind in ["subscribe", "publish", "sub_refresh"].into_iter().filter(|_| is_granular) {
            if options.get(&format!("{kind}_proxy_name")).is_some_and(|name| name != "") {
                options.entry(format!("{kind}_proxy_enabled")).or_insert(Value::Bool(true));
            }
        }
    }
}

/// Sets the value at a path, unless there is one.
fn insert(table: &mut Map<String, Value>, path: &str, value: Value) {
    let Some((first, rest)) = path.split_once('.') else {
        table.entry(path).or_insert(value);
        return;
    };
    let inner = table.entry(first).or_insert_with(|| Value::Object(Map::new()));
    if let Value::Object(inner) = inner {
        insert(inner, rest, value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::renamed;

    #[test]
    fn flat_keys_get_their_tables() {
        let old = json!({
            "token_hmac_secret_key": "s", "api_key": "k", "admin": true, "admin_password": "p", "engine": "redis",
            "redis_address": "r", "allowed_origins": ["a"], "presence": true, "proxy_subscribe": true,
            "client_channel_limit": 5, "channel_private_prefix": "!", "proxy_connect_endpoint": "http://a",
            "granular_proxy_mode": true, "port": "9000", "subscription_token_audience": "x",
            "namespaces": [{"name": "n", "proxy_publish": true, "subscribe_proxy_name": "x", "history_size": 1}],
        });
        let new = json!({
            "client": {
                "token": {"hmac_secret_key": "s"}, "allowed_origins": ["a"], "channel_limit": 5,
                "proxy": {"connect": {"endpoint": "http://a", "enabled": true}},
                "subscription_token": {"audience": "x"},
            },
            "http_api": {"key": "k"},
            "http_server": {"port": "9000"},
            "admin": {"enabled": true, "password": "p"},
            "engine": {"type": "redis", "redis": {"address": "r"}},
            "channel": {
                "private_prefix": "!",
                "without_namespace": {"presence": true, "subscribe_proxy_enabled": true},
                "namespaces": [{
                    "name": "n", "publish_proxy_enabled": true, "subscribe_proxy_name": "x",
                    "subscribe_proxy_enabled": true, "history_size": 1,
                }],
            },
        });
        assert_eq!(renamed(old), Ok(new));
    }

    #[test]
    fn keys_of_version_6_stay_and_win() {
        let new =
            json!({"http_api": {"key": "new"}, "admin": {"enabled": true}, "uni_sse": {"enabled": true}});
        assert_eq!(renamed(new.clone()), Ok(new.clone()));
        let mut both = new.clone();
        both["api_key"] = json!("old");
        assert_eq!(renamed(both), Ok(new));
    }
}
