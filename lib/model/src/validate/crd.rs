//! The description of a kind as a `CustomResourceDefinition`.
//!
//! What the API server accepts is what is accepted here, and a little more: see [`Server`]. Values
//! that count as absent here (`""` or 0 where a field has no use for them) are accepted. A field that
//! is null is left out by the API server itself.

use serde_json::{Map, Value, json};

use super::{
    check,
    decode::zero,
    encode,
    fault::{Faults, Path},
    format::{self, part16, part32},
    schema::{Check, Field, Keep, Literal, Object, Schema, Scope, Server, Shape, Type},
};
use crate::Kind;

/// The API group of the resources.
const GROUP: &str = "projectcalico.org";
/// Their version.
const VERSION: &str = "v3";

/// What an API server is told of a kind beside its schema.
struct Names {
    kind: Kind,
    short: &'static [&'static str],
    /// What `kubectl get` prints between name and age: title, type, path.
    columns: &'static [(&'static str, &'static str, &'static str)],
    /// Whether its status is written apart from it.
    has_status: bool,
}

/// The kinds that an API server stores as such. The others are made from objects of its own: see
/// [`definition`]. Short names and parts of status are Calico's.
const STORED: &[Names] = &[
    Names {
        kind: Kind::BGPConfiguration,
        short: &["bgpconfig", "bgpconfigs"],
        columns: &[
            ("Mesh", "boolean", ".spec.nodeToNodeMeshEnabled"),
            ("AS", "string", ".spec.asNumber"),
        ],
        has_status: false,
    },
    Names { kind: Kind::BGPFilter, short: &["bgpf", "bgpfs"], columns: &[], has_status: false },
    Names {
        kind: Kind::BGPPeer,
        short: &["bgpp", "bgpps"],
        columns: &[
            ("PeerIP", "string", ".spec.peerIP"),
            ("Node", "string", ".spec.node"),
            ("AS", "string", ".spec.asNumber"),
        ],
        has_status: false,
    },
    Names {
        kind: Kind::BlockAffinity,
        short: &["affinity", "affinities"],
        columns: &[
            ("CIDR", "string", ".spec.cidr"),
            ("Node", "string", ".spec.node"),
            ("Type", "string", ".spec.type"),
            ("State", "string", ".spec.state"),
        ],
        has_status: false,
    },
    Names {
        kind: Kind::CalicoNodeStatus,
        short: &["nodestatus", "nodestatuses"],
        columns: &[("Node", "string", ".spec.node"), ("Updated", "date", ".status.lastUpdated")],
        has_status: false,
    },
    Names {
        kind: Kind::ClusterInformation,
        short: &["clusterinfo", "clusterinfos"],
        columns: &[
            ("Type", "string", ".spec.clusterType"),
            ("Version", "string", ".spec.calicoVersion"),
            ("Ready", "boolean", ".spec.datastoreReady"),
        ],
        has_status: false,
    },
    Names {
        kind: Kind::FelixConfiguration,
        short: &["felixconfig", "felixconfigs"],
        columns: &[],
        has_status: false,
    },
    Names {
        kind: Kind::GlobalNetworkPolicy,
        short: &["gnp", "cgnp"],
        columns: POLICY_COLUMNS,
        has_status: true,
    },
    Names { kind: Kind::GlobalNetworkSet, short: &["gns"], columns: &[], has_status: false },
    Names {
        kind: Kind::HostEndpoint,
        short: &["hep", "heps"],
        columns: &[
            ("Node", "string", ".spec.node"),
            ("Interface", "string", ".spec.interfaceName"),
        ],
        has_status: false,
    },
    Names {
        kind: Kind::IPAMBlock,
        short: &[],
        columns: &[("CIDR", "string", ".spec.cidr"), ("Affinity", "string", ".spec.affinity")],
        has_status: false,
    },
    Names {
        kind: Kind::IPAMConfiguration,
        short: &["ipamconfig", "ipamconfigs"],
        columns: &[
            ("StrictAffinity", "boolean", ".spec.strictAffinity"),
            ("MaxBlocksPerHost", "integer", ".spec.maxBlocksPerHost"),
        ],
        has_status: false,
    },
    Names {
        kind: Kind::IPAMHandle,
        short: &[],
        columns: &[("Handle", "string", ".spec.handleID")],
        has_status: false,
    },
    Names {
        kind: Kind::IPPool,
        short: &["ipp", "ipps", "pool", "pools"],
        columns: &[
            ("CIDR", "string", ".spec.cidr"),
            ("VXLAN", "string", ".spec.vxlanMode"),
            ("IPIP", "string", ".spec.ipipMode"),
            ("NAT", "boolean", ".spec.natOutgoing"),
            ("Disabled", "boolean", ".spec.disabled"),
        ],
        has_status: true,
    },
    Names {
        kind: Kind::IPReservation,
        short: &["reservation", "reservations"],
        columns: &[("CIDRs", "string", ".spec.reservedCIDRs")],
        has_status: false,
    },
    Names {
        kind: Kind::KubeControllersConfiguration,
        short: &["kubecontrollersconfig", "kubecontrollersconfigs"],
        columns: &[],
        has_status: false,
    },
    Names {
        kind: Kind::NetworkPolicy,
        short: &["cnp", "caliconetworkpolicy", "caliconetworkpolicies"],
        columns: POLICY_COLUMNS,
        has_status: true,
    },
    Names { kind: Kind::NetworkSet, short: &["netsets"], columns: &[], has_status: false },
    Names {
        kind: Kind::StagedGlobalNetworkPolicy,
        short: &["sgnp"],
        columns: STAGED_COLUMNS,
        has_status: true,
    },
    Names {
        kind: Kind::StagedKubernetesNetworkPolicy,
        short: &["sknp"],
        columns: &[("Action", "string", ".spec.stagedAction")],
        has_status: true,
    },
    Names {
        kind: Kind::StagedNetworkPolicy,
        short: &["snp"],
        columns: STAGED_COLUMNS,
        has_status: true,
    },
    Names {
        kind: Kind::Tier,
        short: &[],
        columns: &[
            ("Order", "number", ".spec.order"),
            ("DefaultAction", "string", ".spec.defaultAction"),
        ],
        has_status: true,
    },
];

const POLICY_COLUMNS: &[(&str, &str, &str)] = &[
    ("Tier", "string", ".spec.tier"),
    ("Order", "number", ".spec.order"),
    ("Selector", "string", ".spec.selector"),
];
const STAGED_COLUMNS: &[(&str, &str, &str)] = &[
    ("Tier", "string", ".spec.tier"),
    ("Order", "number", ".spec.order"),
    ("Action", "string", ".spec.stagedAction"),
];

/// The names by which `kubectl` knows a kind beside its own and its plural.
pub fn short_names(kind: Kind) -> &'static [&'static str] {
    STORED.iter().find(|names| names.kind == kind).map_or(&[], |names| names.short)
}

/// The `CustomResourceDefinition` of a kind; none: a cluster keeps it in objects of its own (Node,
/// and `WorkloadEndpoint` and `Profile`, which are made from pods, namespaces and service accounts).
pub fn definition(schema: &Schema) -> Option<Value> {
    let names = STORED.iter().find(|names| names.kind == schema.kind)?;
    let kind = schema.kind;
    let mut columns: Vec<_> = names
        .columns
        .iter()
        .map(|(name, ty, path)| json!({"name": name, "type": ty, "jsonPath": path}))
        .collect();
    columns.push(json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"}));
    let mut spelled = json!({
        "kind": kind.name(),
        "listKind": format!("{kind}List"),
        "plural": kind.plural(),
        "singular": kind.name().to_lowercase(),
    });
    if !names.short.is_empty() {
        spelled["shortNames"] = json!(names.short);
    }
    let mut version = json!({
        "name": VERSION,
        "served": true,
        "storage": true,
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": root(schema)},
    });
    if names.has_status {
        version["subresources"] = json!({"status": {}});
    }
    Some(json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{}.{GROUP}", kind.plural())},
        "spec": {
            "group": GROUP,
            "names": spelled,
            "scope": if kind.is_namespaced() { "Namespaced" } else { "Cluster" },
            "versions": [version],
        },
    }))
}

/// The whole object. What every object has is the API server's own.
fn root(schema: &Schema) -> Value {
    let mut root = object(&schema.object, false);
    let properties = &mut root["properties"];
    properties["apiVersion"] = json!({"type": "string"});
    properties["kind"] = json!({"type": "string"});
    properties["metadata"] = json!({"type": "object"});
    let mut name = Constraints::default();
    for server in schema.name.server {
        name.server(schema.name.says, server);
    }
    // A name is a DNS name anyway.
    if schema.name.says != format::NAME.says && !name.fields.is_empty() {
        let mut name = name.fields;
        name.insert("type".to_owned(), "string".into());
        properties["metadata"] = json!({"type": "object", "properties": {"name": name}});
    }
    root["description"] = schema.doc.into();
    let rules = schema.on_server.iter().map(|rule| (rule.says, rule.cel));
    add_rules(root.as_object_mut(), rules);
    root
}

/// `in_list`: there may be many of it, and rules are costly.
fn object(object: &Object, in_list: bool) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in object.fields {
        properties.insert(field.name.to_owned(), property(field, in_list));
        if is_required(field) {
            required.push(field.name);
        }
    }
    required.sort_unstable();
    let mut described = json!({"type": "object", "properties": properties});
    if !required.is_empty() {
        described["required"] = json!(required);
    }
    let rules = object.rules.iter();
    let rules = rules.flat_map(|rule| rule.cel.iter().map(|cel| (rule.says, *cel)));
    add_rules(described.as_object_mut(), rules);
    described
}

fn add_rules<'a>(
    schema: Option<&mut Map<String, Value>>,
    rules: impl Iterator<Item = (&'a str, &'a str)>,
) {
    let rules: Vec<_> = rules.map(|(says, cel)| json!({"message": says, "rule": cel})).collect();
    if let (Some(schema), false) = (schema, rules.is_empty()) {
        let all = schema.entry("x-kubernetes-validations").or_insert_with(|| json!([]));
        all.as_array_mut().into_iter().for_each(|all| all.extend(rules.iter().cloned()));
    }
}

/// Whether an object without the field is refused, whatever else it holds.
pub(super) fn is_required(field: &Field) -> bool {
    let is_written = match field.keep {
        Keep::Always => true,
        Keep::UnlessEmpty => matches!(field.shape.ty, Type::Object(_)),
        Keep::UnlessZero | Keep::IfPresent => false,
    };
    field.is_required
        || field.default.is_none() && is_written && !is_fine(&field.shape, &zero(&field.shape.ty))
}

/// Whether a value breaks no rule.
fn is_fine(shape: &Shape, value: &Value) -> bool {
    let mut faults = Faults::default();
    match (&shape.ty, value) {
        (Type::Object(of), Value::Object(fields)) => {
            let mut written = encode::object(of, fields);
            encode::fill_in(of, &mut written);
            check::required(of, fields, &Path::ROOT, &mut faults);
            let scope = Scope { fields: &written, read: &written };
            check::object(of, scope, &Path::ROOT, &mut faults);
        }
        _ => check::value(shape, value, &Map::new(), &Path::ROOT, &mut faults),
    }
    faults.is_empty()
}

fn property(field: &Field, in_list: bool) -> Value {
    // Zero is the same as absent, so that it may be written.
    let is_text = matches!(field.shape.ty, Type::Text);
    let zero_is_absent = field.keep == Keep::UnlessEmpty && !(field.is_required && is_text);
    let mut property = shape(&field.shape, zero_is_absent, in_list);
    match field.default {
        Some(Literal::Text(text)) => property["default"] = text.into(),
        Some(Literal::Int(number)) => property["default"] = number.into(),
        Some(Literal::Bool(value)) => property["default"] = value.into(),
        None => {}
    }
    let said = if field.absent.is_empty() {
        field.doc.to_owned()
    } else {
        format!("{} If absent: {}.", field.doc, field.absent)
    };
    if !said.is_empty() {
        property["description"] = said.into();
    }
    if field.is_required && is_text {
        property["minLength"] = 1.into();
    }
    property
}

fn shape(shape: &Shape, zero_is_absent: bool, in_list: bool) -> Value {
    let mut made = Constraints { zero_is_absent, in_list, ..Constraints::default() };
    made.of_type(&shape.ty);
    let is_duration = matches!(shape.ty, Type::Duration);
    for check in shape.checks {
        made.check(check, is_duration);
    }
    made.fields.into()
}

/// What is demanded of one value, being put together.
#[derive(Default)]
struct Constraints {
    fields: Map<String, Value>,
    zero_is_absent: bool,
    in_list: bool,
}

impl Constraints {
    fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.fields.insert(key.to_owned(), value.into());
    }

    fn is_text(&self) -> bool {
        self.fields.get("type").is_some_and(|ty| ty == "string")
    }

    fn of_type(&mut self, ty: &Type) {
        match ty {
            Type::Bool => self.set("type", "boolean"),
            Type::Int(min, max) => {
                self.set("type", "integer");
                self.range(*min, *max);
            }
            Type::MaybeInt(min, max) => {
                self.set("type", "integer");
                self.set("nullable", true);
                self.range(*min, *max);
            }
            Type::Float => self.set("type", "number"),
            Type::Text => self.set("type", "string"),
            Type::Duration => {
                self.also(json!({"pattern": DURATION}));
                self.set("type", "string");
            }
            Type::Time => {
                self.set("type", "string");
                self.set("format", "date-time");
            }
            Type::Port => self.number_or_text(0, u16::MAX.into()),
            Type::NameOrByte => self.number_or_text(0, u8::MAX.into()),
            Type::AsNumber => {
                self.number_or_text(0, u32::MAX.into());
                self.pattern(AS_NUMBER);
            }
            Type::IntOrText => self.number_or_text(i32::MIN.into(), i32::MAX.into()),
            Type::Any => {
                self.set("type", "object");
                self.set("x-kubernetes-preserve-unknown-fields", true);
            }
            Type::List(items) => {
                self.set("type", "array");
                self.set("items", shape(items, false, true));
            }
            Type::Map(values) => {
                self.set("type", "object");
                self.set("additionalProperties", shape(values, false, true));
            }
            Type::Object(of) => {
                if let Value::Object(fields) = object(of, self.in_list) {
                    self.fields = fields;
                }
            }
        }
    }

    fn number_or_text(&mut self, min: i64, max: i64) {
        self.set("x-kubernetes-int-or-string", true);
        self.set("anyOf", json!([{"type": "integer"}, {"type": "string"}]));
        self.range(min, max);
    }

    fn check(&mut self, check: &Check, is_duration: bool) {
        match check {
            Check::OneOf(allowed) => {
                let mut allowed = allowed.to_vec();
                if self.zero_is_absent && !allowed.contains(&"") {
                    allowed.push("");
                }
                self.set("enum", json!(allowed));
            }
            // They are for the notation that is stored; what they refuse are signs and units.
            Check::Pattern(_) if is_duration => self.also(json!({"pattern": "^[^-]"})),
            Check::Pattern(pattern) => self.pattern(pattern.text),
            Check::MaxLength(max) => self.max_length(*max),
            Check::Range(min, max) => self.range(*min, *max),
            // A list without items counts as absent.
            Check::MinItems(min) => {
                if !self.zero_is_absent {
                    self.set("minItems", *min);
                }
            }
            Check::MaxItems(max) => self.set("maxItems", *max),
            Check::Unique => self.set("x-kubernetes-list-type", "set"),
            Check::Is(format) => {
                // Some formats take a text without characters, some fields count it as absent.
                let was_absent = self.zero_is_absent;
                self.zero_is_absent |= (format.breach)(&"".into()).is_none();
                for server in format.server {
                    self.server(format.says, server);
                }
                self.zero_is_absent = was_absent;
            }
        }
    }

    fn server(&mut self, says: &str, server: &Server) {
        match server {
            Server::Pattern(pattern) => self.pattern(pattern),
            Server::Never(pattern) => self.also(json!({"not": {"pattern": pattern}})),
            Server::Formats(formats) => {
                let mut formats: Vec<_> =
                    formats.iter().map(|format| json!({"format": format})).collect();
                if self.zero_is_absent {
                    formats.push(json!({"maxLength": 0}));
                }
                match formats.as_slice() {
                    [one] => self.also(one.clone()),
                    _ => self.also(json!({"anyOf": formats})),
                }
            }
            Server::MaxLength(max) => self.max_length(*max),
            Server::Range(min, max) => self.range(*min, *max),
            Server::ItemsAllMatch(patterns) => {
                let any: Vec<_> =
                    patterns.iter().map(|pattern| json!({"items": {"pattern": pattern}})).collect();
                self.also(json!({"anyOf": any}));
            }
            // An API server counts the cost of the longest list that fits into a request.
            Server::Cel(_) if self.in_list => {}
            Server::Cel(cel) => {
                let cel = if self.zero_is_absent && self.is_text() {
                    format!("self == '' || ({cel})")
                } else {
                    (*cel).to_owned()
                };
                let message = format!("must be {says}");
                add_rules(Some(&mut self.fields), [(message.as_str(), cel.as_str())].into_iter());
            }
        }
    }

    fn pattern(&mut self, pattern: &str) {
        let takes_empty = regex::Regex::new(pattern).is_ok_and(|regex| regex.is_match(""));
        let may_be_empty = self.zero_is_absent && self.is_text();
        let pattern =
            if may_be_empty && !takes_empty { format!("^$|{pattern}") } else { pattern.to_owned() };
        self.also(json!({"pattern": pattern}));
    }

    fn max_length(&mut self, max: usize) {
        let now = self.fields.get("maxLength").and_then(Value::as_u64);
        self.set("maxLength", now.map_or(max as u64, |now| now.min(max as u64)));
    }

    fn range(&mut self, min: i64, max: i64) {
        let min = if self.zero_is_absent && min > 0 { 0 } else { min };
        let now = |key: &str| self.fields.get(key).and_then(Value::as_i64);
        let (now_min, now_max) = (now("minimum"), now("maximum"));
        if min != i64::MIN {
            self.set("minimum", now_min.map_or(min, |now| now.max(min)));
        }
        if max != i64::MAX {
            self.set("maximum", now_max.map_or(max, |now| now.min(max)));
        }
    }

    /// One more demand, beside one of the same name if need be.
    fn also(&mut self, demand: Value) {
        let Value::Object(demand) = demand else { return };
        if demand.keys().any(|key| self.fields.contains_key(key)) {
            let all = self.fields.entry("allOf").or_insert_with(|| json!([]));
            all.as_array_mut().into_iter().for_each(|all| all.push(demand.clone().into()));
        } else {
            self.fields.extend(demand);
        }
    }
}

const AS_NUMBER: &str = concat!("^0*(", part32!(), r"|", part16!(), r"\.0*", part16!(), ")$");
/// Go's notation.
const DURATION: &str = r"^[-+]?(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$";
