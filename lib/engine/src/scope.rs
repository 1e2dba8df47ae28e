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

use crate::HashMap;

const NAMESPACE: ArcStr = arcstr::literal!("projectcalico.org/namespace");
const SERVICE_ACCOUNT: ArcStr = arcstr::literal!("projectcalico.org/serviceaccount");

/// Selectors that were read lately: most policies of a cluster are written alike, and share them.
#[derive(Default)]
pub(crate) struct Texts {
    selectors: HashMap<ArcStr, Selector>,
    namespaces: HashMap<ArcStr, Selector>,
}

/// How many are remembered before all are forgotten.
const REMEMBERED: usize = 4096;

impl Texts {
    fn parse(&mut self, field: &dyn Fn() -> String, text: &ArcStr) -> Result<Selector, Invalid> {
        if let Some(known) = self.selectors.get(text) {
            return Ok(known.clone());
        }
        let parsed = Selector::parse(text).map_err(|error| invalid(&field(), text, error))?;
        remember(&mut self.selectors, text.clone(), &parsed);
        Ok(parsed)
    }

    fn in_namespace(&mut self, namespace: &str) -> Result<Selector, Invalid> {
        if let Some(known) = self.namespaces.get(namespace) {
            return Ok(known.clone());
        }
        let namespace = ArcStr::from(namespace);
        let selector = Selector::eq(NAMESPACE, namespace.clone())
            .map_err(|error| invalid("metadata.namespace", &namespace, error))?;
        remember(&mut self.namespaces, namespace, &selector);
        Ok(selector)
    }

    fn prefixed(
        &mut self,
        field: &dyn Fn() -> String,
        text: &ArcStr,
        prefix: &str,
    ) -> Result<Selector, Invalid> {
        self.parse(field, text)?
            .map_labels(|label| arcstr::format!("{prefix}{label}"))
            .map_err(|error| invalid(&field(), text, error))
    }
}

fn remember(known: &mut HashMap<ArcStr, Selector>, text: ArcStr, selector: &Selector) {
    if known.len() >= REMEMBERED {
        known.clear();
    }
    known.insert(text, selector.clone());
}

/// The endpoints that a policy acts on. `namespace`: of the policy; none: a global one.
///
/// # Errors
/// Which of the policy's selectors can't be read.
pub fn policy(namespace: Option<&str>, policy: &Policy) -> Result<Selector, Invalid> {
    policy_of(namespace, policy, &mut Texts::default())
}

/// See [`policy()`].
pub(crate) fn policy_of(
    namespace: Option<&str>,
    policy: &Policy,
    texts: &mut Texts,
) -> Result<Selector, Invalid> {
    let mut selector = match &policy.selector {
        text if text.is_empty() => None,
        text => Some(texts.parse(&|| "spec.selector".to_owned(), text)?),
    };
    if let Some(namespace) = namespace {
        selector = both(selector, Some(texts.in_namespace(namespace)?));
    }
    if namespace.is_none() && !policy.namespace_selector.is_empty() {
        let field = || "spec.namespaceSelector".to_owned();
        let of_namespace = texts.prefixed(&field, &policy.namespace_selector, "pcns.")?;
        selector = both(selector, Some(of_namespace))
            .map(|selector| Ok::<_, Invalid>(selector.replace_all(&has(&NAMESPACE)?)))
            .transpose()?;
    }
    if !policy.service_account_selector.is_empty() {
        let field = || "spec.serviceAccountSelector".to_owned();
        let of_account = texts.prefixed(&field, &policy.service_account_selector, "pcsa.")?;
        selector = both(selector, Some(of_account));
        if namespace.is_none() {
            selector = selector
                .map(|selector| Ok::<_, Invalid>(selector.replace_all(&has(&SERVICE_ACCOUNT)?)))
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
    peer_of(namespace, peer, &|| field.to_owned(), &mut Texts::default())
}

/// See [`peer()`].
pub(crate) fn peer_of(
    namespace: Option<&str>,
    peer: &Conditions,
    field: &dyn Fn() -> String,
    texts: &mut Texts,
) -> Scope {
    let negative = match &peer.not_selector {
        text if text.is_empty() => Ok(None),
        text => texts.parse(&|| format!("{}.notSelector", field()), text).map(Some),
    };
    Scope { positive: positive(namespace, peer, field, texts), negative }
}

fn positive(
    namespace: Option<&str>,
    peer: &Conditions,
    field: &dyn Fn() -> String,
    texts: &mut Texts,
) -> Result<Option<Selector>, Invalid> {
    let accounts = match &peer.service_accounts {
        None => None,
        Some(accounts) => service_accounts(accounts, field, texts)?,
    };
    let own = match &peer.selector {
        text if text.is_empty() => None,
        text => Some(texts.parse(&|| format!("{}.selector", field()), text)?),
    };
    let own = both(accounts, own);
    let written =
        own.is_some() || !peer.not_selector.is_empty() || !peer.namespace_selector.is_empty();
    if !written {
        return Ok(None);
    }
    let of_namespace = match (&peer.namespace_selector, namespace) {
        (text, None) if text.is_empty() => None,
        (text, Some(namespace)) if text.is_empty() => Some(texts.in_namespace(namespace)?),
        (text, _) => {
            let has = has(&NAMESPACE)?;
            let field = || format!("{}.namespaceSelector", field());
            let selector = texts.prefixed(&field, text, "pcns.")?;
            Some(selector.replace_all(&has).replace_global(&has.not()))
        }
    };
    Ok(both(of_namespace, own))
}

fn service_accounts(
    accounts: &ServiceAccounts,
    field: &dyn Fn() -> String,
    texts: &mut Texts,
) -> Result<Option<Selector>, Invalid> {
    let by_labels = match &accounts.selector {
        text if text.is_empty() => None,
        text => {
            let field = || format!("{}.serviceAccounts.selector", field());
            Some(texts.prefixed(&field, text, "pcsa.")?)
        }
    };
    let by_name = if accounts.names.is_empty() {
        None
    } else {
        let set = Selector::in_set(SERVICE_ACCOUNT, accounts.names.iter().cloned());
        let field = || format!("{}.serviceAccounts.names", field());
        Some(set.map_err(|error| invalid(&field(), "", error))?)
    };
    Ok(both(by_labels, by_name))
}

fn both(first: Option<Selector>, second: Option<Selector>) -> Option<Selector> {
    match (first, second) {
        (Some(first), Some(second)) => Some(first.and(second)),
        (first, second) => first.or(second),
    }
}

fn has(label: &ArcStr) -> Result<Selector, Invalid> {
    Selector::has(label.clone()).map_err(|error| invalid("", label, error))
}

fn invalid(field: &str, value: &str, error: impl std::fmt::Display) -> Invalid {
    let value = if value.is_empty() { String::new() } else { format!("{value:?}") };
    Invalid { field: field.to_owned(), value, reason: error.to_string() }
}
