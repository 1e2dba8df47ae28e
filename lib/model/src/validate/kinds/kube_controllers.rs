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
    doc: "",
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
        Field::text("logSeverityScreen").checks(&[Check::OneOf(&[
            "None", "Debug", "Info", "Warning", "Error", "Fatal", "Panic",
        ])]),
        Field::text("healthChecks").checks(ON_OR_OFF).default(Literal::Text("Enabled")),
        Field::new("etcdV3CompactionPeriod", Type::Duration).if_present(),
        Field::new("prometheusMetricsPort", INT).if_present().checks(PORT),
        Field::object("controllers", &CONTROLLERS).always(),
        Field::new("debugProfilePort", INT32).if_present().checks(PORT),
    ],
    rules: &[],
};

static STATUS: Object = Object {
    fields: &[
        Field::object("runningConfig", &SPEC).if_present(),
        Field::new("environmentVars", Type::Map(&TEXT)),
    ],
    rules: &[],
};

static CONTROLLERS: Object = Object {
    fields: &[
        Field::object("node", &NODE).if_present(),
        Field::object("policy", &RECONCILED).if_present(),
        Field::object("workloadEndpoint", &RECONCILED).if_present(),
        Field::object("serviceAccount", &RECONCILED).if_present(),
        Field::object("namespace", &RECONCILED).if_present(),
        Field::object("loadBalancer", &LOAD_BALANCER).if_present(),
        Field::object("policyMigration", &MIGRATION).if_present(),
    ],
    rules: &[],
};

const RECONCILER_PERIOD: Field = Field::new("reconcilerPeriod", Type::Duration).if_present();

static RECONCILED: Object = Object { fields: &[RECONCILER_PERIOD], rules: &[] };

static NODE: Object = Object {
    fields: &[
        RECONCILER_PERIOD,
        Field::text("syncLabels").checks(ON_OR_OFF),
        Field::object("hostEndpoint", &HOST_ENDPOINT).if_present(),
        Field::new("leakGracePeriod", Type::Duration).if_present(),
    ],
    rules: &[],
};

static HOST_ENDPOINT: Object = Object {
    fields: &[
        Field::text("autoCreate").checks(ON_OR_OFF),
        Field::text("createDefaultHostEndpoint").checks(ON_OR_OFF),
        Field::list("templates", &Shape::of(Type::Object(&TEMPLATE))),
    ],
    rules: &[],
};

static TEMPLATE: Object = Object {
    fields: &[
        Field::text("generateName").checks(&[Check::Is(&NAME), Check::MaxLength(253)]),
        Field::list("interfaceCIDRs", &Shape::checked(Type::Text, &[Check::Is(&CIDR)])),
        Field::text("interfacePattern").checks(&[Check::Is(&REGEX)]),
        Field::new("labels", Type::Map(&TEXT)).checks(&[Check::Is(&LABELS)]),
        Field::new("annotations", Type::Map(&TEXT)),
        Field::text("nodeSelector").checks(&[Check::Is(&SELECTOR)]),
    ],
    rules: &[],
};

static LOAD_BALANCER: Object = Object {
    fields: &[Field::text("assignIPs")
        .checks(&[Check::OneOf(&["AllServices", "RequestedServicesOnly"])])
        .default(Literal::Text("AllServices"))],
    rules: &[],
};

static MIGRATION: Object = Object {
    fields: &[Field::text("enabled").checks(ON_OR_OFF).default(Literal::Text("Enabled"))],
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
