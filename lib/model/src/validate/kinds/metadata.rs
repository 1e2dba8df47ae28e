//! What every object has: its metadata, and the conditions that many a status has.

use crate::validate::{
    format::{ANNOTATIONS, LABELS},
    schema::{Breach, Check, Field, INT, Object, Pattern, Rule, Shape, TEXT, TEXTS, Type},
};

/// The longest name of an object, in bytes.
const MAX_NAME: usize = 253;

pub(super) const METADATA: Field = Field::object("metadata", &OBJECT_META).always();

static OBJECT_META: Object = Object {
    fields: &[
        Field::text("name"),
        Field::text("generateName"),
        Field::text("namespace"),
        Field::text("selfLink"),
        Field::text("uid"),
        Field::text("resourceVersion"),
        Field::int("generation"),
        Field::new("creationTimestamp", Type::Time),
        Field::new("deletionTimestamp", Type::Time),
        Field::new("deletionGracePeriodSeconds", INT).if_present(),
        Field::new("labels", Type::Map(&TEXT)).checks(&[Check::Is(&LABELS)]),
        Field::new("annotations", Type::Map(&TEXT)).checks(&[Check::Is(&ANNOTATIONS)]),
        Field::list("ownerReferences", &Shape::of(Type::Object(&OWNER_REFERENCE))),
        Field::new("finalizers", TEXTS),
        Field::list("managedFields", &Shape::of(Type::Object(&MANAGED_FIELDS))),
    ],
    rules: &[Rule {
        says: "a name has at most 253 bytes",
        cel: &[],
        breach: |meta| {
            let length = meta.text("name").len();
            if length > MAX_NAME { Breach::at("name", format!("it has {length}")) } else { None }
        },
    }],
};

static OWNER_REFERENCE: Object = Object {
    fields: &[
        Field::text("apiVersion").always(),
        Field::text("kind").always(),
        Field::text("name").always(),
        Field::text("uid").always(),
        Field::bool("controller").if_present(),
        Field::bool("blockOwnerDeletion").if_present(),
    ],
    rules: &[],
};

static MANAGED_FIELDS: Object = Object {
    fields: &[
        Field::text("manager"),
        Field::text("operation"),
        Field::text("apiVersion"),
        Field::new("time", Type::Time).if_present(),
        Field::text("fieldsType"),
        Field::new("fieldsV1", Type::Any).if_present(),
        Field::text("subresource"),
    ],
    rules: &[],
};

static CONDITION_TYPE: Pattern = Pattern::new(
    r"^([a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])$",
);
static CONDITION_REASON: Pattern = Pattern::new("^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$");

/// `metav1.Condition`.
static CONDITION: Object = Object {
    fields: &[
        Field::text("type")
            .doc("What the condition is about.")
            .always()
            .checks(&[Check::Pattern(&CONDITION_TYPE), Check::MaxLength(316)]),
        Field::text("status")
            .doc("Whether it holds.")
            .always()
            .checks(&[Check::OneOf(&["True", "False", "Unknown"])]),
        Field::int("observedGeneration")
            .doc("The generation of the object that it speaks of.")
            .checks(&[Check::Range(0, i64::MAX)]),
        Field::new("lastTransitionTime", Type::Time)
            .doc("When `status` last changed.")
            .always()
            .required(),
        Field::text("reason")
            .doc("Why, in one word.")
            .always()
            .checks(&[Check::Pattern(&CONDITION_REASON), Check::MaxLength(1024)]),
        Field::text("message")
            .doc("Why, in a sentence.")
            .always()
            .checks(&[Check::MaxLength(32768)]),
    ],
    rules: &[],
};

pub(super) const CONDITIONS: Field =
    Field::list("conditions", &CONDITION_SHAPE).doc("What the system says of the object.");
static CONDITION_SHAPE: Shape = Shape::of(Type::Object(&CONDITION));
