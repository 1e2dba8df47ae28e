//! Label selectors of Kubernetes as text of the selector language.

use serde_json::Value;

use super::{
    kubernetes::{LabelSelector, NamespacedPods, Requirement},
    report::Report,
};
use crate::{
    selector::Selector,
    validate::{is_label_value, is_qualified_name},
};

/// Only pods of Kubernetes: what stands in front of each pod selector.
const KUBERNETES_PODS: &str = "projectcalico.org/orchestrator == 'k8s'";

/// A translated selector.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// In the selector language; empty: no condition.
    pub(super) text: String,
    /// Whether it holds all that was written. If not, it selects more.
    pub(super) is_whole: bool,
}

impl Selection {
    /// No condition.
    pub(super) fn none() -> Self {
        Self { text: String::new(), is_whole: true }
    }
}

/// Of pods; without one, of every pod.
pub(super) fn pods(selector: &LabelSelector, report: &mut Report) -> Selection {
    joined(vec![KUBERNETES_PODS.to_owned()], selector, report)
}

/// Of namespaces: an empty one selects all.
pub(super) fn namespaces(selector: &LabelSelector, report: &mut Report) -> Selection {
    if selector.match_labels.is_empty() && selector.match_expressions.is_empty() {
        return Selection { text: "all()".to_owned(), is_whole: true };
    }
    joined(Vec::new(), selector, report)
}

/// Of pods and of their namespaces.
pub(super) fn namespaced(both: &NamespacedPods, report: &mut Report) -> (Selection, Selection) {
    let pods = report.at("podSelector", |report| pods(&both.pod_selector, report));
    let namespaces =
        report.at("namespaceSelector", |report| namespaces(&both.namespace_selector, report));
    (pods, namespaces)
}

fn joined(mut terms: Vec<String>, selector: &LabelSelector, report: &mut Report) -> Selection {
    let mut is_whole = true;
    let mut add = |term: Option<String>| match term {
        Some(term) => terms.push(term),
        None => is_whole = false,
    };
    report.at("matchLabels", |report| {
        for (key, value) in &selector.match_labels {
            add(label(key, report)
                .zip(quoted(value, report))
                .map(|(key, value)| format!("{key} == {value}")));
        }
    });
    report.at("matchExpressions", |report| {
        for (index, requirement) in selector.match_expressions.iter().enumerate() {
            add(report.at(index, |report| expression(requirement, report)));
        }
    });
    Selection { text: terms.join(" && "), is_whole }
}

/// One of `matchExpressions`; none: it can't be expressed.
fn expression(requirement: &Requirement, report: &mut Report) -> Option<String> {
    let key = report.at("key", |report| label(&requirement.key, report))?;
    let takes_values = ["In", "NotIn"].contains(&requirement.operator.as_str());
    if takes_values == requirement.values.is_empty() {
        let needed =
            if takes_values { "must list a value" } else { "must be empty with this operator" };
        report.at("values", |report| report.refuse(Value::Null, needed));
    }
    let set = |report: &mut Report| report.at("values", |report| set(&requirement.values, report));
    match requirement.operator.as_str() {
        "In" => Some(format!("{key} in {}", set(report)?)),
        "NotIn" => Some(format!("{key} not in {}", set(report)?)),
        "Exists" => Some(format!("has({key})")),
        "DoesNotExist" => Some(format!("! has({key})")),
        other => {
            report.at("operator", |report| {
                report.fault(other, "must be In, NotIn, Exists or DoesNotExist");
            });
            None
        }
    }
}

/// As in Calico, no values are the one empty value.
fn set(values: &[String], report: &mut Report) -> Option<String> {
    let mut written = Vec::with_capacity(values.len());
    for (index, value) in values.iter().enumerate() {
        written.push(report.at(index, |report| quoted(value, report)));
    }
    let written: Vec<String> = written.into_iter().collect::<Option<_>>()?;
    Some(format!("{{ {} }}", if written.is_empty() { "''".to_owned() } else { written.join(", ") }))
}

/// A label's name, if the language can write it: any other could pose as a part of the selector.
fn label<'a>(key: &'a str, report: &mut Report) -> Option<&'a str> {
    match Selector::has(key) {
        Ok(_) => {
            if !is_qualified_name(key) {
                report.refuse(key, "must be a label's name such as app or example.com/app");
            }
            Some(key)
        }
        Err(error) => {
            report.fault(key, error.to_string());
            None
        }
    }
}

/// A value in the quotes that it doesn't have itself.
fn quoted(value: &str, report: &mut Report) -> Option<String> {
    if !is_label_value(value) {
        let reason =
            "must have at most 63 of A-Z a-z 0-9 - _ . with a letter or digit at both ends";
        report.refuse(value, reason);
    }
    match (value.contains('\''), value.contains('"')) {
        (false, _) => Some(format!("'{value}'")),
        (true, false) => Some(format!("\"{value}\"")),
        (true, true) => {
            report.fault(value, "must have one kind of quotes at most: ' or \"");
            None
        }
    }
}
