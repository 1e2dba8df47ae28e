//! `KubeControllersConfiguration`: what the controllers do.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{DEFAULT_ALONE, metadata::METADATA, only_default, spec_mut, text_at};
use crate::{
    Kind,
    validate::{
        fault::{Faults, Path},
        format::{CIDR, LABELS, NAME, REGEX, SELECTOR},
        schema::{
            Check, Field, INT, INT32, Literal, Object, Schema, Scope, ServerRule, Shape, TEXT,
            Type, Write,
        },
    },
};

pub(super) static SCHEMA: Schema = Schema {
    kind: Kind::KubeControllersConfiguration,
    doc: "What the controllers do; there is one, `default`.",
    object: Object {
        fields: &[
            METADATA,
            Field::object("spec", &SPEC).always(),
            Field::object("status", &STATUS).always(),
        ],
        rules: &[],
    },
    name: &NAME,
    on_write,
    write_rules,
    on_server: &[
        DEFAULT_ALONE,
        ServerRule {
            says: "a template has a name",
            cel: "!has(self.spec) || !has(self.spec.controllers) || !has(self.spec.controllers.node) || !has(self.spec.controllers.node.hostEndpoint) || !has(self.spec.controllers.node.hostEndpoint.templates) || self.spec.controllers.node.hostEndpoint.templates.all(template, template.?generateName.orValue('') != '')",
        },
        ServerRule {
            says: "a template has interfaceCIDRs or an interfacePattern",
            cel: "!has(self.spec) || !has(self.spec.controllers) || !has(self.spec.controllers.node) || !has(self.spec.controllers.node.hostEndpoint) || !has(self.spec.controllers.node.hostEndpoint.templates) || self.spec.controllers.node.hostEndpoint.templates.all(template, has(template.interfaceCIDRs) || has(template.interfacePattern))",
        },
    ],
};

const ON_OR_OFF: &[Check] = &[Check::OneOf(&["Enabled", "Disabled"])];
const PORT: &[Check] = &[Check::Range(0, 65535)];

static SPEC: Object = Object {
    fields: &[
        Field::text("logSeverityScreen")
            .doc("From which level log lines are written.")
            .absent("Info")
            .checks(&[Check::OneOf(&[
                "None", "Debug", "Info", "Warning", "Error", "Fatal", "Panic",
            ])]),
        Field::text("healthChecks")
            .doc("Whether the controllers report their health.")
            .checks(ON_OR_OFF)
            .default(Literal::Text("Enabled")),
        Field::new("etcdV3CompactionPeriod", Type::Duration)
            .doc("How often etcd's history is compacted, as a duration; 0s: never.")
            .absent("10m")
            .if_present(),
        Field::new("prometheusMetricsPort", INT)
            .doc("The port of the metrics; 0: none.")
            .absent("9094")
            .if_present()
            .checks(PORT),
        Field::object("controllers", &CONTROLLERS)
            .doc("Which controllers run, and how. One that is absent doesn't run.")
            .always(),
        Field::new("debugProfilePort", INT32)
            .doc("The port of profiles; 0: none.")
            .absent("none")
            .if_present()
            .checks(PORT),
    ],
    rules: &[],
};

static STATUS: Object = Object {
    fields: &[
        Field::object("runningConfig", &SPEC).doc("What is in force.").if_present(),
        Field::new("environmentVars", Type::Map(&TEXT))
            .doc("Environment variables that were used."),
    ],
    rules: &[],
};

static CONTROLLERS: Object = Object {
    fields: &[
        Field::object("node", &NODE)
            .doc("Gives back what nodes that are gone hold, and keeps host endpoints.")
            .if_present(),
        Field::object("policy", &RECONCILED)
            .doc("Copies policies of Kubernetes to etcd.")
            .if_present(),
        Field::object("workloadEndpoint", &RECONCILED)
            .doc("Copies labels of pods to etcd.")
            .if_present(),
        Field::object("serviceAccount", &RECONCILED)
            .doc("Copies service accounts to etcd.")
            .if_present(),
        Field::object("namespace", &RECONCILED).doc("Copies namespaces to etcd.").if_present(),
        Field::object("loadBalancer", &LOAD_BALANCER)
            .doc("Gives addresses to services of type LoadBalancer.")
            .if_present(),
        Field::object("migration", &MIGRATION)
            .doc("Moves what older versions stored to the form of newer ones.")
            .if_present(),
    ],
    rules: &[],
};

const RECONCILER_PERIOD: Field = Field::new("reconcilerPeriod", Type::Duration)
    .doc("How often everything is compared anew, as a duration.")
    .absent("5m")
    .if_present();

static RECONCILED: Object = Object { fields: &[RECONCILER_PERIOD], rules: &[] };

static NODE: Object = Object {
    fields: &[
        RECONCILER_PERIOD,
        Field::text("syncLabels").doc("Whether labels of Kubernetes' nodes are copied to Nodes in etcd.").absent("Enabled").checks(ON_OR_OFF),
        Field::object("hostEndpoint", &HOST_ENDPOINT).doc("Host endpoints that are made for nodes.").if_present(),
        Field::new("leakGracePeriod", Type::Duration).doc("How long an address without a holder is kept before it is given back, as a duration; 0s: for ever.").absent("15m").if_present(),
    ],
    rules: &[],
};

static HOST_ENDPOINT: Object = Object {
    fields: &[
        Field::text("autoCreate")
            .doc("Whether host endpoints are made.")
            .absent("Disabled")
            .checks(ON_OR_OFF),
        Field::text("createDefaultHostEndpoint")
            .doc("Whether each node gets one for all its interfaces.")
            .absent("Enabled")
            .checks(ON_OR_OFF),
        Field::list("templates", &Shape::of(Type::Object(&TEMPLATE))).doc("Further ones."),
    ],
    rules: &[],
};

static TEMPLATE: Object = Object {
    fields: &[
        Field::text("generateName")
            .doc("What its name ends with.")
            .checks(&[Check::Is(&NAME), Check::MaxLength(253)]),
        Field::list("interfaceCIDRs", &Shape::checked(Type::Text, &[Check::Is(&CIDR)]))
            .doc("Takes addresses of the node in these networks."),
        Field::text("interfacePattern")
            .doc("Takes interfaces whose name matches this regular expression.")
            .checks(&[Check::Is(&REGEX)]),
        Field::new("labels", Type::Map(&TEXT)).doc("Its labels.").checks(&[Check::Is(&LABELS)]),
        Field::new("annotations", Type::Map(&TEXT)).doc("Its annotations."),
        Field::text("nodeSelector")
            .doc("Selects the nodes that get one.")
            .absent("all")
            .checks(&[Check::Is(&SELECTOR)]),
    ],
    rules: &[],
};

static LOAD_BALANCER: Object = Object {
    fields: &[Field::text("assignIPs")
        .doc("Which services get an address: all, or those that ask for one.")
        .checks(&[Check::OneOf(&["AllServices", "RequestedServicesOnly"])])
        .default(Literal::Text("AllServices"))],
    rules: &[],
};

static MIGRATION: Object = Object {
    fields: &[Field::text("policyNameMigrator")
        .doc("Whether policies get the names that newer versions use.")
        .checks(ON_OR_OFF)
        .default(Literal::Text("Enabled"))],
    rules: &[],
};

fn on_write(object: &mut Map<String, Value>) {
    let spec = spec_mut(object);
    spec.entry("prometheusMetricsPort").or_insert(9094.into());
    let node = spec.get_mut("controllers").and_then(|controllers| controllers.get_mut("node"));
    if let Some(node) = node.and_then(Value::as_object_mut) {
        node.entry("leakGracePeriod").or_insert("15m0s".into());
    }
}

fn write_rules(write: &Write<'_>, faults: &mut Faults) {
    only_default(write, faults);
    let object = Scope { fields: write.object, read: write.object };
    let host_endpoint =
        object.child("spec").child("controllers").child("node").child("hostEndpoint");
    let path = Path::ROOT.field("spec");
    let path = path.field("controllers");
    let path = path.field("node");
    let path = path.field("hostEndpoint");
    let path = path.field("templates");
    let mut names = HashSet::new();
    for (index, template) in host_endpoint.list("templates").iter().enumerate() {
        let mut refuse = |field: &str, rule: &str| {
            let found = template.get(field).unwrap_or(&Value::Null);
            faults.add(&path.index(index), field, found, rule, "");
        };
        let name = text_at(template, "generateName");
        if name.is_empty() {
            refuse("generateName", "a template has a name");
        } else if !names.insert(name) {
            refuse("generateName", "a template has a name of its own");
        }
        let cidrs = template.get("interfaceCIDRs").and_then(Value::as_array);
        let has_cidrs = cidrs.is_some_and(|cidrs| !cidrs.is_empty());
        if !has_cidrs && text_at(template, "interfacePattern").is_empty() {
            refuse("interfaceCIDRs", "a template has interfaceCIDRs or an interfacePattern");
        }
    }
}
