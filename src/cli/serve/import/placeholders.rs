//! Values that something else fills in: `${NAME}` of the environment, and `{{ … }}` of templates.
//!
//! A placeholder never becomes a value: a token that is signed with its text would be let in.

use std::collections::BTreeMap;

use serde_json::Value;

/// Centrifugo itself fills in this one, with parts of each token.
const TEMPLATE_OF_CENTRIFUGO: &str = "client.token.jwks_public_endpoint";

/// Puts variables in the place of their names in all texts below `value`, which is at `path`. `variables` has them by
/// name; without it, each placeholder is refused.
///
/// # Errors
/// For a placeholder that has no value, with its path and name.
pub(super) fn fill(
    value: &mut Value,
    path: &str,
    variables: Option<&BTreeMap<String, String>>,
) -> Result<(), String> {
    match value {
        Value::String(text) => *text = filled(text, path, variables)?,
        Value::Array(items) => {
            for (place, item) in items.iter_mut().enumerate() {
                let name = item.get("name").and_then(Value::as_str).map(str::to_owned);
                let path = format!("{path}[{}]", name.unwrap_or_else(|| place.to_string()));
                fill(item, &path, variables)?;
            }
        }
        Value::Object(entries) => {
            for (key, item) in entries {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                fill(item, &path, variables)?;
            }
        }
        _ => {}
    }
    Ok(())
}

fn filled(text: &str, path: &str, variables: Option<&BTreeMap<String, String>>) -> Result<String, String> {
    if text.contains("{{") && path != TEMPLATE_OF_CENTRIFUGO {
        return Err(format!(
            "{path}: has a placeholder {{{{ … }}}}: import the file that its template makes"
        ));
    }
    let (mut filled, mut rest) = (String::new(), text);
    while let Some((before, placeholder)) = rest.split_once("${") {
        let (name, behind) = placeholder.split_once('}').unwrap_or((placeholder, ""));
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
            return Err(format!("{path}: has a placeholder ${{…}} that is no name: write its value"));
        }
        let value = match variables {
            None => Err(format!("{path}: has the placeholder ${{{name}}}: pass --env to fill in variables")),
            Some(variables) => {
                variables.get(name).filter(|value| !value.is_empty()).cloned().ok_or_else(|| {
                    format!("{path}: has the placeholder ${{{name}}}, and this variable is not set")
                })
            }
        };
        filled.push_str(before);
        filled.push_str(&value?);
        rest = behind;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::fill;

    #[test]
    fn a_placeholder_is_filled_in_or_refused_by_its_name_wherever_it_stands() {
        let variables = [("A".to_owned(), "hunter2".to_owned())].into();
        for (mut value, path) in [
            (json!({"client": {"token": {"hmac_secret_key": "${A}"}}}), "client.token.hmac_secret_key"),
            (json!({"http_api": {"key": "x-${A}-y"}}), "http_api.key"),
            (
                json!({"channel": {"namespaces": [{"name": "n", "x": ["${A}"]}]}}),
                "channel.namespaces[n].x[0]",
            ),
        ] {
            let refused = fill(&mut value, "", None).expect_err("refused");
            assert!(refused.starts_with(&format!("{path}: ")) && refused.contains("${A}"), "{refused}");
            let unset = fill(&mut value, "", Some(&[].into())).expect_err("unset");
            assert!(unset.starts_with(&format!("{path}: ")) && unset.ends_with("not set"), "{unset}");
            fill(&mut value, "", Some(&variables)).expect("filled");
            assert!(value.to_string().contains("hunter2") && !value.to_string().contains('$'), "{value}");
        }
        for text in ["{{ .Values.secret }}", "${}", "${A:-x}", "${"] {
            let refused = fill(&mut json!({"a": text}), "", Some(&variables));
            assert!(refused.is_err_and(|line| line.starts_with("a: has a placeholder")), "{text}");
        }
        let mut set =
            json!({"client": {"token": {"jwks_public_endpoint": "https://a/{{realm}}"}}, "n": 1, "d": "$a"});
        let before = set.clone();
        assert_eq!(fill(&mut set, "", None), Ok(()));
        assert_eq!(set, before);
    }
}
