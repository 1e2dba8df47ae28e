//! `IPAMConfiguration`, `IPReservation` and `BlockAffinity`: how addresses are given out.

use super::{metadata::METADATA, no_write_rules, nothing, only_default};
use crate::{
    Kind,
    validate::{
        format::{NAME, PREFIX},
        schema::{Breach, Check, Field, INT32, Literal, Object, Rule, Schema, Shape, Type},
    },
};

pub(super) static CONFIGURATION: Schema = Schema {
    kind: Kind::IPAMConfiguration,
    object: Object {
        fields: &[METADATA, Field::object("spec", &CONFIGURATION_SPEC).always()],
        rules: &[],
    },
    name: &NAME,
    on_write: nothing,
    write_rules: only_default,
};

static CONFIGURATION_SPEC: Object = Object {
    fields: &[
        Field::bool("strictAffinity").always().default(Literal::Bool(false)),
        Field::new("maxBlocksPerHost", INT32)
            .checks(&[Check::Range(0, 1_000_000)])
            .default(Literal::Int(0)),
        Field::bool("autoAllocateBlocks").always().default(Literal::Bool(true)),
        Field::text("kubeVirtVMAddressPersistence")
            .if_present()
            .checks(&[Check::OneOf(&["Enabled", "Disabled"])]),
        Field::new("ipCooldownSeconds", INT32).checks(&[Check::Range(0, 2_147_483_647)]),
    ],
    rules: &[],
};

pub(super) static RESERVATION: Schema = Schema {
    kind: Kind::IPReservation,
    object: Object {
        fields: &[METADATA, Field::object("spec", &RESERVATION_SPEC).always()],
        rules: &[],
    },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
};

static RESERVATION_SPEC: Object = Object {
    fields: &[Field::list("reservedCIDRs", &Shape::checked(Type::Text, &[Check::Is(&PREFIX)]))],
    rules: &[],
};

pub(super) static BLOCK_AFFINITY: Schema = Schema {
    kind: Kind::BlockAffinity,
    object: Object {
        fields: &[METADATA, Field::object("spec", &AFFINITY_SPEC).always()],
        rules: &[],
    },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
};

static AFFINITY_SPEC: Object = Object {
    fields: &[
        Field::text("state").always().checks(&[Check::OneOf(&[
            "",
            "confirmed",
            "pending",
            "pendingDeletion",
        ])]),
        Field::text("node").always(),
        Field::text("type"),
        Field::text("cidr").always().checks(&[Check::Is(&PREFIX)]),
        Field::bool("deleted").always().default(Literal::Bool(false)),
    ],
    rules: &[Rule {
        says: "an affinity isn't written as deleted",
        breach: |spec| if spec.flag("deleted") { Breach::at("deleted", "delete it") } else { None },
    }],
};
