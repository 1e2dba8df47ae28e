//! Which endpoints a selector means: its own text, the namespace that it is written in, and
//! conditions on labels of namespaces and service accounts.
//!
//! Endpoints carry the labels of their namespace with the prefix `pcns.` and those of their service
//! account with `pcsa.`, so that all conditions become one selector. They are combined as syntax
//! trees in the shape that Calico's text has (`updateprocessors/rules.go`,
//! `networkpolicyprocessor.go`), because the ids of IP sets come from that text; unlike there,
//! nothing in quotes is rewritten, and what doesn't parse isn't dropped.

use arcstr::ArcStr;
use model::{
    kinds::{Conditions, Invalid, Policy, ServiceAccounts},
    selector::Selector,
};

const NAMESPACE: &str = "projectcalico.org/namespace";
const SERVICE_ACCOUNT: &str = "projectcalico.org/serviceaccount";

/// The endpoints that a policy acts on. `namespace`: of the policy; none: a global one.
///
/// # Errors
/// Which of the policy's selectors can't be read.
pub fn policy(namespace: Option<&str>, policy: &Policy) -> Result<Selector, Invalid> {
    let mut selector = match &*policy.selector {
        "" => None,
        text => Some(parse("spec.selector", text)?),
    };
    if let Some(namespace) = namespace {
        selector = both(selector, Some(in_namespace(namespace)?));
    }
    if namespace.is_none() && !policy.namespace_selector.is_empty() {
        let field = "spec.namespaceSelector";
        let of_namespace = prefixed(field, &policy.namespace_selector, "pcns.")?;
        selector = both(selector, Some(of_namespace))
            .map(|selector| Ok::<_, Invalid>(selector.replace_all(&has(NAMESPACE)?)))
            .transpose()?;
    }
    if !policy.service_account_selector.is_empty() {
        let field = "spec.serviceAccountSelector";
        let of_account = prefixed(field, &policy.service_account_selector, "pcsa.")?;
        selector = both(selector, Some(of_account));
        if namespace.is_none() {
            selector = selector
                .map(|selector| Ok::<_, Invalid>(selector.replace_all(&has(SERVICE_ACCOUNT)?)))
                .transpose()?;
        }
    }
    Ok(selector.unwrap_or_else(Selector::all))
}

/// One side of a rule.
#[derive(Debug)]
pub struct Scope {
    /// Whom the rule means; none: it has no such condition.
    pub positive: Result<Option<Selector>, Invalid>,
    /// Whom it excludes.
    pub negative: Result<Option<Selector>, Invalid>,
}

/// Whom one side of a rule means. `namespace`: of the policy; none: a global one, or a profile.
/// `field`: the path of that side, for errors.
pub fn peer(namespace: Option<&str>, peer: &Conditions, field: &str) -> Scope {
    let negative = match &*peer.not_selector {
        "" => Ok(None),
        text => parse(&format!("{field}.notSelector"), text).map(Some),
    };
    Scope { positive: positive(namespace, peer, field), negative }
}

fn positive(
    namespace: Option<&str>,
    peer: &Conditions,
    field: &str,
) -> Result<Option<Selector>, Invalid> {
    let accounts = match &peer.service_accounts {
        None => None,
        Some(accounts) => service_accounts(accounts, &format!("{field}.serviceAccounts"))?,
    };
    let own = match &*peer.selector {
        "" => None,
        text => Some(parse(&format!("{field}.selector"), text)?),
    };
    let own = both(accounts, own);
    let written =
        own.is_some() || !peer.not_selector.is_empty() || !peer.namespace_selector.is_empty();
    if !written {
        return Ok(None);
    }
    let of_namespace = match (&*peer.namespace_selector, namespace) {
        ("", None) => None,
        ("", Some(namespace)) => Some(in_namespace(namespace)?),
        (text, _) => {
            let has = has(NAMESPACE)?;
            let selector = prefixed(&format!("{field}.namespaceSelector"), text, "pcns.")?;
            Some(selector.replace_all(&has).replace_global(&has.not()))
        }
    };
    Ok(both(of_namespace, own))
}

fn service_accounts(accounts: &ServiceAccounts, field: &str) -> Result<Option<Selector>, Invalid> {
    let by_labels = match &*accounts.selector {
        "" => None,
        text => Some(prefixed(&format!("{field}.selector"), text, "pcsa.")?),
    };
    let by_name = if accounts.names.is_empty() {
        None
    } else {
        let set = Selector::in_set(SERVICE_ACCOUNT, accounts.names.iter().cloned());
        Some(set.map_err(|error| invalid(&format!("{field}.names"), "", error))?)
    };
    Ok(both(by_labels, by_name))
}

fn both(first: Option<Selector>, second: Option<Selector>) -> Option<Selector> {
    match (first, second) {
        (Some(first), Some(second)) => Some(first.and(second)),
        (first, second) => first.or(second),
    }
}

fn parse(field: &str, text: &str) -> Result<Selector, Invalid> {
    Selector::parse(text).map_err(|error| invalid(field, text, error))
}

fn prefixed(field: &str, text: &str, prefix: &str) -> Result<Selector, Invalid> {
    parse(field, text)?
        .map_labels(|label| arcstr::format!("{prefix}{label}"))
        .map_err(|error| invalid(field, text, error))
}

fn in_namespace(namespace: &str) -> Result<Selector, Invalid> {
    Selector::eq(NAMESPACE, ArcStr::from(namespace))
        .map_err(|error| invalid("metadata.namespace", namespace, error))
}

fn has(label: &'static str) -> Result<Selector, Invalid> {
    Selector::has(label).map_err(|error| invalid("", label, error))
}

fn invalid(field: &str, value: &str, error: impl std::fmt::Display) -> Invalid {
    let value = if value.is_empty() { String::new() } else { format!("{value:?}") };
    Invalid { field: field.to_owned(), value, reason: error.to_string() }
}
