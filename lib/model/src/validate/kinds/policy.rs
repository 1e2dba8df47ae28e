//! `NetworkPolicy` and `GlobalNetworkPolicy`.

use serde_json::{Map, Value};

use super::{
    label,
    metadata::{CONDITIONS, METADATA},
    no_write_rules,
    rule::{RULE, selector},
    spec_mut,
};
use crate::{
    Kind,
    validate::{
        format::{GLOBAL_POLICY_NAME, NAME, POLICY_NAME},
        schema::{Breach, Check, Field, Literal, Object, Rule, Schema, Scope, Shape, Type},
    },
};

pub(super) static NETWORK_POLICY: Schema = Schema {
    kind: Kind::NetworkPolicy,
    doc: "Rules for endpoints of a namespace.",
    object: Object {
        fields: &[METADATA, Field::object("spec", &SPEC).always(), STATUS],
        rules: &[],
    },
    name: &POLICY_NAME,
    on_write,
    write_rules: no_write_rules,
    on_server: &[],
};

pub(super) static GLOBAL_NETWORK_POLICY: Schema = Schema {
    kind: Kind::GlobalNetworkPolicy,
    doc: "Rules for endpoints in all namespaces and for host endpoints.",
    object: Object {
        fields: &[METADATA, Field::object("spec", &GLOBAL_SPEC).always(), STATUS],
        rules: &[],
    },
    name: &GLOBAL_POLICY_NAME,
    on_write,
    write_rules: no_write_rules,
    on_server: &[],
};

pub(super) const STATUS: Field =
    Field::object("status", &Object { fields: &[CONDITIONS], rules: &[] }).if_present();

// The fields, shared by policies, global policies and their staged forms.

pub(super) const TIER: Field = Field::text("tier")
    .doc("The tier that it belongs to.")
    .checks(&TIER_CHECKS)
    .default(Literal::Text("default"));
static TIER_CHECKS: [Check; 1] = [Check::Is(&NAME)];
pub(super) const ORDER: Field = Field::new("order", Type::Float).doc("Its place among the policies of its tier: less comes first, and names decide between equals.").absent("last").if_present();
pub(super) const INGRESS: Field = Field::list("ingress", &RULE)
    .doc("Rules for packets to the endpoints, in order; the first that matches decides.")
    .checks(&[Check::MaxItems(1024)]);
pub(super) const EGRESS: Field = Field::list("egress", &RULE)
    .doc("Rules for packets from the endpoints, in order; the first that matches decides.")
    .checks(&[Check::MaxItems(1024)]);
pub(super) const POLICY_SELECTOR: Field =
    selector("selector").doc("Selects by labels the endpoints that it applies to.").absent("all");
pub(super) const TYPES: Field =
    Field::list("types", &Shape::checked(Type::Text, &[Check::OneOf(&["Ingress", "Egress"])])).doc("The directions that it acts on. In them, what no rule allows goes on to the next tier as the tier's default action says.").absent("a write takes them from the rules; a policy that was stored without them acts on both")
        .checks(&[Check::MaxItems(2), Check::Unique]);
pub(super) const SERVICE_ACCOUNTS: Field = selector("serviceAccountSelector")
    .doc("Selects by labels the service accounts whose pods it applies to.")
    .absent("all");
pub(super) const NAMESPACES: Field = selector("namespaceSelector")
    .doc("Selects by labels the namespaces whose endpoints it applies to.")
    .absent("all, and host endpoints");
pub(super) const FLAGS: [Field; 3] =
    [Field::bool("doNotTrack").doc("Applies to packets of host endpoints before connections are tracked: answers need rules of their own.").absent("false"), Field::bool("preDNAT").doc("Applies to packets of host endpoints before their destination is translated, as node ports are.").absent("false"), Field::bool("applyOnForward").doc("Applies also to packets that a host forwards, not only to those that end at it.").absent("false")];
pub(super) const HINTS: Field = Field::list(
    "performanceHints",
    &Shape::checked(Type::Text, &[Check::OneOf(&["AssumeNeededOnEveryNode"])]),
)
.doc("`AssumeNeededOnEveryNode`: agents prepare it before the first endpoint needs it.")
.checks(&[Check::Unique]);

static SPEC: Object = Object {
    fields: &[TIER, ORDER, INGRESS, EGRESS, POLICY_SELECTOR, TYPES, SERVICE_ACCOUNTS, HINTS],
    rules: &[NO_GLOBAL, SERVICES],
};

static GLOBAL_SPEC: Object = Object {
    fields: &[
        TIER,
        ORDER,
        INGRESS,
        EGRESS,
        POLICY_SELECTOR,
        TYPES,
        FLAGS[0],
        FLAGS[1],
        FLAGS[2],
        SERVICE_ACCOUNTS,
        NAMESPACES,
        HINTS,
    ],
    rules: &GLOBAL_RULES,
};

pub(super) const GLOBAL_RULES: [Rule; 6] = [
    no_global(&[
        "!has(self.selector) || !self.selector.contains('global(')",
        "!has(self.serviceAccountSelector) || !self.serviceAccountSelector.contains('global(')",
        "!has(self.namespaceSelector) || !self.namespaceSelector.contains('global(')",
    ]),
    SERVICES,
    Rule {
        says: "doNotTrack and preDNAT exclude each other",
        cel: &["!self.?doNotTrack.orValue(false) || !self.?preDNAT.orValue(false)"],
        breach: |spec| {
            if !spec.flag("doNotTrack") || !spec.flag("preDNAT") {
                return None;
            }
            Breach::at("doNotTrack", "take a policy for each")
        },
    },
    Rule {
        says: "preDNAT has no egress",
        cel: &[
            "!self.?preDNAT.orValue(false) || (!has(self.egress) || size(self.egress) == 0) && (!has(self.types) || !self.types.exists(type, type == 'Egress'))",
        ],
        breach: |spec| {
            if !spec.flag("preDNAT") {
                return None;
            }
            if !spec.list("egress").is_empty() {
                return Breach::at("egress", "take another policy for egress");
            }
            if spec.texts("types").any(|it| it == "Egress") {
                return Breach::at("types", "types: [Ingress]");
            }
            None
        },
    },
    Rule {
        says: "doNotTrack and preDNAT need applyOnForward",
        cel: &[
            "!self.?doNotTrack.orValue(false) && !self.?preDNAT.orValue(false) || self.?applyOnForward.orValue(false)",
        ],
        breach: |spec| {
            let needs = spec.flag("doNotTrack") || spec.flag("preDNAT");
            if !needs || spec.flag("applyOnForward") {
                return None;
            }
            Breach::at("applyOnForward", "set it to true")
        },
    },
    Rule {
        says: "a global policy names the namespace of a service",
        cel: &[
            "!has(self.ingress) || self.ingress.all(rule, !has(rule.source) || !has(rule.source.services) || rule.source.services.?namespace.orValue('') != '')",
            "!has(self.egress) || self.egress.all(rule, !has(rule.destination) || !has(rule.destination.services) || rule.destination.services.?namespace.orValue('') != '')",
        ],
        breach: |spec| {
            services(spec).find_map(|(direction, index, side, services)| {
                let is_expected = (direction == "ingress") == (side == "source");
                if !is_expected || services.has_text("namespace") {
                    return None;
                }
                Breach::at(format!("{direction}[{index}].{side}.services.namespace"), "")
            })
        },
    },
];

pub(super) const NO_GLOBAL: Rule = no_global(&[
    "!has(self.selector) || !self.selector.contains('global(')",
    "!has(self.serviceAccountSelector) || !self.serviceAccountSelector.contains('global(')",
]);

/// The CEL names the fields that the kind has.
const fn no_global(cel: &'static [&'static str]) -> Rule {
    Rule {
        says: "global() belongs into the namespaceSelector of a rule",
        cel,
        breach: |spec| {
            ["selector", "serviceAccountSelector", "namespaceSelector"]
                .into_iter()
                .find(|field| spec.text(field).contains("global("))
                .and_then(|field| Breach::at(field, ""))
        },
    }
}

pub(super) const SERVICES: Rule = Rule {
    says: "services are the source of ingress and the destination of egress",
    cel: &[
        "!has(self.ingress) || self.ingress.all(rule, !has(rule.destination) || !has(rule.destination.services))",
        "!has(self.egress) || self.egress.all(rule, !has(rule.source) || !has(rule.source.services))",
    ],
    breach: |spec| {
        services(spec).find_map(|(direction, index, side, _)| {
            if (direction == "ingress") == (side == "source") {
                return None;
            }
            Breach::at(format!("{direction}[{index}].{side}.services"), "")
        })
    },
};

/// The service matches of all rules: direction, index of the rule, side, services.
fn services<'a>(
    spec: &Scope<'a>,
) -> impl Iterator<Item = (&'static str, usize, &'static str, Scope<'a>)> {
    let spec = *spec;
    ["ingress", "egress"].into_iter().flat_map(move |direction| {
        spec.list(direction).iter().enumerate().flat_map(move |(index, rule)| {
            ["source", "destination"].into_iter().filter_map(move |side| {
                let entity = Scope { fields: rule.as_object()?, ..spec }.child(side);
                entity.get("services")?;
                Some((direction, index, side, entity.child("services")))
            })
        })
    })
}

/// Derives the types from the rules where there are none, and labels the policy with its tier.
fn on_write(object: &mut Map<String, Value>) {
    let spec = spec_mut(object);
    derive_types(spec);
    label_with_tier(object);
}

pub(super) fn derive_types(spec: &mut Map<String, Value>) {
    let has = |spec: &Map<String, Value>, field| {
        spec.get(field).and_then(Value::as_array).is_some_and(|list| !list.is_empty())
    };
    if has(spec, "types") {
        return;
    }
    let (ingress, egress) = (has(spec, "ingress"), has(spec, "egress"));
    let types = [("Ingress", ingress || !egress), ("Egress", egress)];
    let types = types.into_iter().filter(|(_, acts)| *acts).map(|(name, _)| name);
    spec.insert("types".to_owned(), types.collect());
}

pub(super) fn label_with_tier(object: &mut Map<String, Value>) {
    let spec = spec_mut(object);
    let tier = spec.get("tier").and_then(Value::as_str).filter(|tier| !tier.is_empty());
    let tier = tier.unwrap_or("default").to_owned();
    label(object, "projectcalico.org/tier", tier);
}
