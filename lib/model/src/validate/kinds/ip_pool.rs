//! `IPPool`: where addresses are taken from.

use serde_json::{Map, Value};

use super::{
    metadata::{CONDITIONS, METADATA},
    rule::MAX_SELECTOR,
    spec_mut,
};
use crate::{
    Kind,
    validate::{
        fault::{Faults, Path},
        format::{NAME, NET, SELECTOR},
        net::Cidr,
        schema::{
            Breach, Check, Field, Literal, Object, Rule, Schema, Scope, ServerRule, Shape, Type,
            Write,
        },
    },
};

pub(super) static SCHEMA: Schema = Schema {
    kind: Kind::IPPool,
    doc: "A network that addresses of pods, tunnels or load balancers are taken from.",
    object: Object {
        fields: &[
            METADATA,
            Field::object("spec", &SPEC).always(),
            Field::object("status", &STATUS).if_present(),
        ],
        rules: &[],
    },
    name: &NAME,
    on_write,
    write_rules,
    on_server: &[
        ServerRule {
            says: "the network of a pool can't be changed",
            cel: "self.spec.cidr == oldSelf.spec.cidr || isCIDR(self.spec.cidr) && isCIDR(oldSelf.spec.cidr) && cidr(self.spec.cidr) == cidr(oldSelf.spec.cidr)",
        },
        ServerRule {
            says: "the block size of a pool can't be changed",
            cel: "(self.spec.?blockSize.orValue(0) != 0 ? self.spec.blockSize : self.spec.cidr.contains(':') ? 122 : 26) == (oldSelf.spec.?blockSize.orValue(0) != 0 ? oldSelf.spec.blockSize : oldSelf.spec.cidr.contains(':') ? 122 : 26)",
        },
        ServerRule {
            says: "a pool for load balancers stays one",
            cel: "!has(oldSelf.spec.allowedUses) || size(oldSelf.spec.allowedUses) == 0 || oldSelf.spec.allowedUses[0] != 'LoadBalancer' || !has(self.spec.allowedUses) || self.spec.allowedUses.all(use, use == 'LoadBalancer')",
        },
    ],
};

static STATUS: Object = Object { fields: &[CONDITIONS], rules: &[] };

const SELECTORS: &[Check] = &[Check::Is(&SELECTOR), MAX_SELECTOR];
const MODES: &[Check] = &[Check::OneOf(&["Never", "Always", "CrossSubnet"])];

static SPEC: Object = Object {
    fields: &[
        Field::text("cidr")
            .doc("The network, such as `10.0.0.0/16` or `fd00:10::/64`. It can't be changed.")
            .always()
            .required()
            .checks(&[Check::Is(&NET)]),
        Field::text("vxlanMode")
            .doc("Whether packets between nodes go through VXLAN: always, or only between subnets.")
            .absent("Never")
            .checks(MODES),
        Field::text("ipipMode")
            .doc("Whether packets between nodes go through IPIP: always, or only between subnets.")
            .absent("Never")
            .checks(MODES),
        Field::bool("natOutgoing")
            .doc("Whether packets that leave all pools take the node's address.")
            .absent("false"),
        Field::bool("disabled")
            .doc("Whether new addresses are taken from elsewhere.")
            .absent("false"),
        Field::bool("disableBGPExport")
            .doc("Whether its routes are kept from BGP peers.")
            .absent("false"),
        Field::int("blockSize")
            .doc("The length of the prefix of the blocks that nodes get. It can't be changed.")
            .absent("26, for IPv6 122")
            .checks(&[Check::Range(0, 128)]),
        Field::text("nodeSelector")
            .doc("Selects by labels the nodes that may take addresses from it.")
            .checks(SELECTORS)
            .default(Literal::Text("all()")),
        Field::text("namespaceSelector")
            .doc("Selects by labels the namespaces whose pods may take addresses from it.")
            .absent("all")
            .checks(SELECTORS),
        Field::list(
            "allowedUses",
            &Shape::checked(Type::Text, &[Check::OneOf(&["Workload", "Tunnel", "LoadBalancer"])]),
        )
        .doc("What its addresses are for.")
        .absent("on a write Workload and Tunnel")
        .checks(&[Check::MaxItems(10)]),
        Field::text("assignmentMode")
            .doc("Whether addresses are taken from it by themselves, or only where a pod names it.")
            .if_present()
            .checks(&[Check::OneOf(&["Automatic", "Manual"])])
            .default(Literal::Text("Automatic")),
    ],
    rules: &[
        Rule {
            says: "a pool needs a network such as 10.0.0.0/16 or fd00:10::/64",
            cel: &["isCIDR(self.cidr)"],
            breach: |spec| match cidr(spec) {
                Some(_) => None,
                None => Breach::at("cidr", canonical(spec.text("cidr"))),
            },
        },
        Rule {
            says: "blocks have a size from /20 to /32 (IPv4) or from /116 to /128 (IPv6)",
            cel: &[
                "self.?blockSize.orValue(0) == 0 || !isCIDR(self.cidr) || (cidr(self.cidr).ip().family() == 4 ? self.blockSize >= 20 && self.blockSize <= 32 : self.blockSize >= 116)",
            ],
            breach: |spec| {
                let size = given_block_size(spec).filter(|size| *size != 0)?;
                let sizes = if cidr(spec)?.is_ipv4() { 20..=32 } else { 116..=128 };
                if sizes.contains(&size) {
                    return None;
                }
                Breach::at("blockSize", format!("from {} to {}", sizes.start(), sizes.end()))
            },
        },
        Rule {
            says: "an enabled pool holds at least one block",
            cel: &[
                "self.?disabled.orValue(false) || !isCIDR(self.cidr) || cidr(self.cidr).prefixLength() <= (self.?blockSize.orValue(0) != 0 ? self.blockSize : cidr(self.cidr).ip().family() == 4 ? 26 : 122)",
            ],
            breach: |spec| {
                let cidr = cidr(spec).filter(|_| !spec.flag("disabled"))?;
                let size = block_size(spec, &cidr);
                if i64::from(cidr.ones) <= size {
                    return None;
                }
                Breach::at("cidr", format!("a /{size} or larger, or a smaller block"))
            },
        },
        Rule {
            says: "a pool has no link-local addresses: 169.254.0.0/16, fe80::/10",
            cel: &[
                "!isCIDR(self.cidr) || ['169.254.0.0/16', 'fe80::/10'].all(net, !cidr(net).containsCIDR(self.cidr) && !cidr(self.cidr).containsCIDR(net))",
            ],
            breach: |spec| {
                let cidr = cidr(spec)?;
                let link_local = ["169.254.0.0/16", "fe80::/10"];
                let overlaps = link_local
                    .into_iter()
                    .filter_map(Cidr::parse)
                    .any(|link_local| link_local.overlaps(&cidr));
                if overlaps { Breach::at("cidr", "take another network") } else { None }
            },
        },
        Rule {
            says: "a pool has one encapsulation",
            cel: &[
                "self.?ipipMode.orValue('') in ['', 'Never'] || self.?vxlanMode.orValue('') in ['', 'Never']",
            ],
            breach: |spec| {
                if !tunnels(spec, "ipipMode") || !tunnels(spec, "vxlanMode") {
                    return None;
                }
                Breach::at("vxlanMode", "set vxlanMode or ipipMode to Never")
            },
        },
        Rule {
            says: "IPIP carries IPv4 only",
            cel: &[
                "self.?ipipMode.orValue('') in ['', 'Never'] || !isCIDR(self.cidr) || cidr(self.cidr).ip().family() == 4",
            ],
            breach: |spec| {
                if !tunnels(spec, "ipipMode") || cidr(spec)?.is_ipv4() {
                    return None;
                }
                Breach::at("ipipMode", "set it to Never; VXLAN carries IPv6")
            },
        },
        Rule {
            says: "LoadBalancer is the only use of its pool",
            cel: &[
                "!has(self.allowedUses) || size(self.allowedUses) == 0 || (self.allowedUses[0] == 'LoadBalancer' ? self.allowedUses.all(use, use == 'LoadBalancer') : !self.allowedUses.exists(use, use == 'LoadBalancer'))",
            ],
            breach: |spec| {
                let others = spec.texts("allowedUses").any(|used| used != "LoadBalancer");
                if !is_used_for(spec, "LoadBalancer") || !others {
                    return None;
                }
                Breach::at("allowedUses", "take a pool for each")
            },
        },
        Rule {
            says: "a pool for load balancers has no encapsulation",
            cel: &[
                "!has(self.allowedUses) || !self.allowedUses.exists(use, use == 'LoadBalancer') || self.?ipipMode.orValue('') in ['', 'Never'] && self.?vxlanMode.orValue('') in ['', 'Never']",
            ],
            breach: |spec| {
                let is_tunneled = tunnels(spec, "ipipMode") || tunnels(spec, "vxlanMode");
                if !is_used_for(spec, "LoadBalancer") || !is_tunneled {
                    return None;
                }
                Breach::at("", "set ipipMode and vxlanMode to Never")
            },
        },
        Rule {
            says: "a pool for load balancers is for all nodes",
            cel: &[
                "!has(self.allowedUses) || !self.allowedUses.exists(use, use == 'LoadBalancer') || self.?nodeSelector.orValue('') in ['', 'all()']",
            ],
            breach: |spec| {
                if !is_used_for(spec, "LoadBalancer") || spec.text("nodeSelector") == "all()" {
                    return None;
                }
                Breach::at("nodeSelector", "leave it out")
            },
        },
        Rule {
            says: "a pool for load balancers is exported over BGP",
            cel: &[
                "!has(self.allowedUses) || !self.allowedUses.exists(use, use == 'LoadBalancer') || !self.?disableBGPExport.orValue(false)",
            ],
            breach: |spec| {
                if !is_used_for(spec, "LoadBalancer") || !spec.flag("disableBGPExport") {
                    return None;
                }
                Breach::at("disableBGPExport", "leave it out")
            },
        },
        Rule {
            says: "a pool for tunnels has no namespaceSelector: tunnels have no namespace",
            cel: &[
                "!has(self.allowedUses) || !self.allowedUses.exists(use, use == 'Tunnel') || self.?namespaceSelector.orValue('') == ''",
            ],
            breach: |spec| {
                if !is_used_for(spec, "Tunnel") || !spec.has_text("namespaceSelector") {
                    return None;
                }
                Breach::at("namespaceSelector", "set allowedUses to [Workload]")
            },
        },
        Rule {
            says: "global() means nothing to a pool",
            cel: &[
                "!has(self.nodeSelector) || !self.nodeSelector.contains('global(')",
                "!has(self.namespaceSelector) || !self.namespaceSelector.contains('global(')",
            ],
            breach: |spec| {
                ["nodeSelector", "namespaceSelector"]
                    .into_iter()
                    .find(|field| spec.text(field).contains("global("))
                    .and_then(|field| Breach::at(field, ""))
            },
        },
    ],
};

fn cidr(spec: &Scope<'_>) -> Option<Cidr> {
    Cidr::parse_strict(spec.text("cidr"))
}

/// The notation that is meant by another one.
fn canonical(text: &str) -> String {
    Cidr::parse_or_ip(text).map(|cidr| format!("write {}", cidr.text())).unwrap_or_default()
}

fn given_block_size(spec: &Scope<'_>) -> Option<i64> {
    spec.get("blockSize").and_then(Value::as_i64)
}

fn block_size(spec: &Scope<'_>, cidr: &Cidr) -> i64 {
    let default = default_block_size(cidr);
    given_block_size(spec).filter(|size| *size != 0).unwrap_or(default)
}

fn default_block_size(cidr: &Cidr) -> i64 {
    if cidr.is_ipv4() { 26 } else { 122 }
}

fn tunnels(spec: &Scope<'_>, mode: &str) -> bool {
    !matches!(spec.text(mode), "" | "Never")
}

fn is_used_for(spec: &Scope<'_>, used: &str) -> bool {
    spec.texts("allowedUses").any(|allowed| allowed == used)
}

fn on_write(object: &mut Map<String, Value>) {
    let spec = spec_mut(object);
    let text = spec.get("cidr").and_then(Value::as_str).unwrap_or_default();
    // A wrong one stays as it is, for the message.
    if let Some(cidr) = Cidr::parse(text) {
        if cidr.is_masked() {
            spec.insert("cidr".to_owned(), cidr.text().into());
        }
        let size = spec.entry("blockSize").or_insert(0.into());
        if *size == 0 {
            *size = default_block_size(&cidr).into();
        }
    }
    for mode in ["ipipMode", "vxlanMode"] {
        fill_in_text(spec, mode, "Never");
    }
    fill_in_text(spec, "nodeSelector", "all()");
    if spec.get("allowedUses").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("allowedUses".to_owned(), ["Workload", "Tunnel"].into_iter().collect());
    }
}

fn fill_in_text(spec: &mut Map<String, Value>, field: &str, text: &str) {
    if spec.get(field).and_then(Value::as_str).is_none_or(str::is_empty) {
        spec.insert(field.to_owned(), text.into());
    }
}

fn write_rules(write: &Write<'_>, faults: &mut Faults) {
    let Some(old) = write.old else { return };
    let new = Scope { fields: write.object, read: write.object }.child("spec");
    let old = Scope { fields: old, read: old }.child("spec");
    let mut refuse = |field: &str, rule: &str, hint: String| {
        let found = new.get(field).unwrap_or(&Value::Null);
        faults.add(&Path::ROOT.field("spec"), field, found, rule, hint);
    };
    let (from, to) = (old.text("cidr"), new.text("cidr"));
    let net = |text| Cidr::parse(text).map(|cidr| (cidr.network, cidr.ones));
    let is_same = from == to || net(from).is_some() && net(from) == net(to);
    if !is_same {
        refuse(
            "cidr",
            "the network of a pool can't be changed",
            format!("it is {from}; make a new pool"),
        );
    }
    let size = |spec: &Scope<'_>| {
        let cidr = Cidr::parse(spec.text("cidr"));
        cidr.map(|cidr| block_size(spec, &cidr))
    };
    let is_same = match (size(&old), size(&new)) {
        (Some(old), Some(new)) => old == new,
        _ => true,
    };
    if !is_same {
        let hint = "it has blocks of the old size; make a new pool".to_owned();
        refuse("blockSize", "the block size of a pool can't be changed", hint);
    }
    let is_lost = new.texts("allowedUses").any(|used| used != "LoadBalancer");
    if is_used_for(&old, "LoadBalancer") && is_lost {
        let hint = "make a new pool for workloads and tunnels".to_owned();
        refuse("allowedUses", "a pool for load balancers stays one", hint);
    }
}
