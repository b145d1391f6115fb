//! Whether a configuration is of version 6, whose keys are in tables.

use serde_json::Value;

/// Beginnings of keys of version 5, which had no tables.
const PREFIXES: [&str; 17] = [
    "admin_",
    "allow_",
    "api_",
    "channel_",
    "client_",
    "grpc_api_",
    "health_",
    "history_",
    "log_",
    "nats_",
    "prometheus_",
    "proxy_",
    "redis_",
    "subscription_token_",
    "tls_",
    "token_",
    "websocket_",
];

/// Other keys of version 5. Tables of version 6 have some of these names.
const KEYS: [&str; 14] = [
    "address",
    "admin",
    "allowed_origins",
    "broker",
    "engine",
    "granular_proxy_mode",
    "internal_port",
    "join_leave",
    "namespaces",
    "port",
    "presence",
    "prometheus",
    "rpc_namespaces",
    "user_subscribe_to_personal",
];

const CONVERTER: &str = "https://centrifugal.dev/docs/getting-started/migration_v6";

/// Refuses a configuration of version 5.
///
/// # Errors
/// With the first of its keys, and where Centrifugo's converter is, which is a page.
pub(super) fn check(root: &Value) -> Result<(), String> {
    let is_old = |(key, value): &(&String, &Value)| {
        let has_name = KEYS.contains(&key.as_str()) || PREFIXES.iter().any(|prefix| key.starts_with(prefix));
        has_name && !value.is_object()
    };
    match root.as_object().into_iter().flatten().find(is_old) {
        None => Ok(()),
        Some((key, _)) => Err(format!(
            "is a configuration of Centrifugo 5, as the key {key} shows: convert it with Centrifugo's configuration converter, \
             {CONVERTER}, and import the result"
        )),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{CONVERTER, check};

    #[test]
    fn keys_without_their_tables_are_those_of_version_5() {
        for old in [
            json!({"token_hmac_secret_key": "hunter2"}),
            json!({"client": {}, "allowed_origins": ["a"]}),
            json!({"namespaces": [{"name": "n"}]}),
            json!({"proxy_connect_endpoint": "http://a"}),
            json!({"admin": true}),
            json!({"engine": "redis"}),
        ] {
            let line = check(&old).expect_err("of version 5");
            assert!(line.contains(CONVERTER) && !line.contains("hunter2"), "{line}");
        }
        let new =
            json!({"admin": {"enabled": true}, "engine": {"type": "redis"}, "log": {}, "pid_file": "f"});
        assert_eq!(check(&new), Ok(()));
    }
}
