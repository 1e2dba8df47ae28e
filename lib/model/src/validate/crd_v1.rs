//! What objects of `crd.projectcalico.org/v1` have in another form than those of the v3 API.

use std::borrow::Cow;

use serde_json::Value;

const GROUP: &str = "crd.projectcalico.org/v1";

/// The object as the v3 API has it: `IPAMConfig` is another name, and a flag is text in the old group.
pub fn as_v3(object: &Value) -> Cow<'_, Value> {
    let text = |field: &str| object.get(field).and_then(Value::as_str).unwrap_or_default();
    if text("apiVersion") != GROUP {
        return Cow::Borrowed(object);
    }
    match text("kind") {
        "IPAMConfig" => {
            let mut object = object.clone();
            object["kind"] = "IPAMConfiguration".into();
            Cow::Owned(object)
        }
        "BlockAffinity" => {
            let deleted = match object.pointer("/spec/deleted").and_then(Value::as_str) {
                Some("true") => true,
                Some("false") => false,
                _ => return Cow::Borrowed(object),
            };
            let mut object = object.clone();
            object["spec"]["deleted"] = deleted.into();
            Cow::Owned(object)
        }
        _ => Cow::Borrowed(object),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::validate::validate;

    #[test]
    fn what_kubectl_shows_of_the_old_group_is_valid() {
        let affinity = |group: &str, deleted: serde_json::Value| {
            json!({
                "apiVersion": group, "kind": "BlockAffinity", "metadata": { "name": "n-10-0-0-0-26" },
                "spec": { "state": "confirmed", "node": "n", "cidr": "10.0.0.0/26", "deleted": deleted },
            })
        };
        let old = "crd.projectcalico.org/v1";
        let verdict = validate(&affinity(old, json!("false")), None);
        assert!(verdict.valid, "{:?}", verdict.errors);
        let written = verdict.defaulted.expect("it can be written");
        assert_eq!(written["spec"]["deleted"], json!(false));
        let deleted = validate(&affinity(old, json!("true")), None).errors;
        assert_eq!(deleted[0].value, json!(true), "{deleted:?}");
        assert!(!validate(&affinity(old, json!("no")), None).valid);
        assert!(!validate(&affinity("projectcalico.org/v3", json!("false")), None).valid);
        let config = |group: &str| {
            json!({
                "apiVersion": group, "kind": "IPAMConfig", "metadata": { "name": "default" },
                "spec": { "strictAffinity": true, "autoAllocateBlocks": true },
            })
        };
        let written = validate(&config(old), None).defaulted.expect("it can be written");
        assert_eq!(written["kind"], "IPAMConfiguration");
        assert!(!validate(&config("projectcalico.org/v3"), None).valid);
    }
}
