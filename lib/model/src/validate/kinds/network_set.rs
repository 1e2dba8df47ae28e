//! `NetworkSet` and `GlobalNetworkSet`: networks with labels.

use super::{metadata::METADATA, no_write_rules, nothing};
use crate::{
    Kind,
    validate::{
        format::{CIDR, NAME},
        schema::{Breach, Check, Field, Object, Rule, Schema, Shape, Type},
    },
};

pub(super) static NETWORK_SET: Schema = Schema {
    kind: Kind::NetworkSet,
    doc: "Networks with labels, for the selectors of rules.",
    object: Object { fields: &[METADATA, SPEC], rules: &[NO_NAMESPACE_LABEL] },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

pub(super) static GLOBAL_NETWORK_SET: Schema = Schema {
    kind: Kind::GlobalNetworkSet,
    doc: "Networks with labels, for the selectors of rules in all namespaces.",
    object: Object { fields: &[METADATA, SPEC], rules: &[NO_NAMESPACE_LABEL] },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

const SPEC: Field = Field::object("spec", &SPEC_OBJECT).always();

static SPEC_OBJECT: Object = Object {
    fields: &[Field::list("nets", &Shape::checked(Type::Text, &[Check::Is(&CIDR)]))
        .doc("Addresses and networks.")],
    rules: &[],
};

const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";

const NO_NAMESPACE_LABEL: Rule = Rule {
    says: "projectcalico.org/namespace is the namespace itself, not a label of a set",
    cel: &[],
    breach: |set| {
        set.child("metadata").child("labels").get(NAMESPACE_LABEL)?;
        Breach::at("metadata.labels", "remove the label")
    },
};
