//! What the system itself would leave out of an object: a write is refused for it, with the path.
//!
//! It reads the object as typha and the agents will. What they read past silently is not found
//! here.

use model::{
    Key, Kind, Stored,
    kinds::{self, Conditions, Rule, Spec},
    selector::Selector,
};
use serde_json::Value;

use super::Object;

/// Everything in the object that would not be acted on as it is written.
pub(crate) fn of(key: &Key, object: &Object) -> Vec<String> {
    // A staged policy has the fields of the policy that it will be.
    let kind = match key.kind {
        Kind::StagedNetworkPolicy => Kind::NetworkPolicy,
        Kind::StagedGlobalNetworkPolicy => Kind::GlobalNetworkPolicy,
        kind => kind,
    };
    let key = Key { kind, ..key.clone() };
    let stored = Stored::Json(Value::Object(object.clone()));
    let resource = match kinds::decode(&key, &stored) {
        Ok(resource) => resource,
        Err(fault) => return vec![fault.to_string()],
    };
    let mut faults: Vec<_> = resource.faults.iter().map(ToString::to_string).collect();
    match &resource.spec {
        Spec::NetworkPolicy(policy) | Spec::GlobalNetworkPolicy(policy) => {
            faults.extend(bad_selector("spec.selector", &policy.selector));
            faults.extend(bad_selector("spec.namespaceSelector", &policy.namespace_selector));
            faults.extend(bad_selector(
                "spec.serviceAccountSelector",
                &policy.service_account_selector,
            ));
            of_rules("spec.ingress", &policy.ingress, &mut faults);
            of_rules("spec.egress", &policy.egress, &mut faults);
        }
        Spec::Profile(profile) => {
            of_rules("spec.ingress", &profile.ingress, &mut faults);
            of_rules("spec.egress", &profile.egress, &mut faults);
        }
        Spec::IPPool(pool) => {
            faults.extend(bad_selector("spec.nodeSelector", &pool.node_selector));
            faults.extend(bad_selector("spec.namespaceSelector", &pool.namespace_selector));
        }
        _ => {}
    }
    faults
}

fn of_rules(path: &str, rules: &[Rule], faults: &mut Vec<String>) {
    for (index, rule) in rules.iter().enumerate() {
        faults.extend(rule.unknown.iter().chain(&rule.bad_action).map(ToString::to_string));
        of_conditions(&format!("{path}[{index}].source"), &rule.source, faults);
        of_conditions(&format!("{path}[{index}].destination"), &rule.destination, faults);
    }
}

fn of_conditions(path: &str, conditions: &Conditions, faults: &mut Vec<String>) {
    let Conditions { nets, not_nets, ports, not_ports, .. } = conditions;
    let bad = nets.bad.iter().chain(&not_nets.bad).chain(&ports.bad).chain(&not_ports.bad);
    faults.extend(bad.map(ToString::to_string));
    for (field, text) in [
        ("selector", &conditions.selector),
        ("notSelector", &conditions.not_selector),
        ("namespaceSelector", &conditions.namespace_selector),
    ] {
        faults.extend(bad_selector(&format!("{path}.{field}"), text));
    }
    if let Some(accounts) = &conditions.service_accounts {
        let path = format!("{path}.serviceAccounts.selector");
        faults.extend(bad_selector(&path, &accounts.selector));
    }
}

fn bad_selector(path: &str, text: &str) -> Option<String> {
    let error = Selector::parse(text).err()?;
    Some(format!("{path}: {text:?}: no selector: {error}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn faults(kind: Kind, spec: &Value) -> Vec<String> {
        let object = json!({"metadata": {"name": "x"}, "spec": spec});
        of(&Key::global(kind, "x"), object.as_object().unwrap())
    }

    #[test]
    fn every_damaged_part_of_a_policy_is_named() {
        for kind in [Kind::GlobalNetworkPolicy, Kind::StagedGlobalNetworkPolicy] {
            let found = faults(
                kind,
                &json!({
                    "selector": "a = 'b'",
                    "ingress": [
                        {"action": "Allow", "source": {"nets": ["10.0.0.0/8", "10.0.0.0/33"]}},
                        {"action": "Alow", "destination": {"selector": "all("}},
                        {"action": "Allow", "protocol": "TCP", "destination": {"ports": [70000]}},
                    ],
                    "egress": [{"action": "Allow", "source": {"serviceAccounts": {"selector": "!"}}}],
                }),
            );
            let paths = [
                "spec.selector: ",
                "spec.ingress[0].source.nets[1]: ",
                "spec.ingress[1].action: ",
                "spec.ingress[1].destination.selector: ",
                "spec.ingress[2].destination.ports[0]: ",
                "spec.egress[0].source.serviceAccounts.selector: ",
            ];
            for path in paths {
                let count = found.iter().filter(|fault| fault.starts_with(path)).count();
                assert_eq!(count, 1, "{path} in {found:#?}");
            }
            assert_eq!(found.len(), paths.len(), "{found:#?}");
        }
    }

    #[test]
    fn a_sound_object_has_no_faults() {
        assert_eq!(faults(Kind::IPPool, &json!({"cidr": "10.0.0.0/16"})), [""; 0]);
        assert_eq!(faults(Kind::FelixConfiguration, &json!({"anything": 1})), [""; 0]);
    }
}
