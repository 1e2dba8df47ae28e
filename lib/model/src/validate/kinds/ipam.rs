//! `IPAMConfiguration`, `IPReservation`, and what address management itself keeps: blocks, whose
//! they are, and who holds their addresses.

use super::{DEFAULT_ALONE, metadata::METADATA, no_write_rules, nothing, only_default};
use crate::{
    Kind,
    validate::{
        format::{NAME, PREFIX},
        schema::{
            Breach, Check, Field, INT, INT32, Literal, Object, Pattern, Rule, Schema, Shape, TEXT,
            Type,
        },
    },
};

pub(super) static CONFIGURATION: Schema = Schema {
    kind: Kind::IPAMConfiguration,
    doc: "How addresses are given out; there is one, `default`.",
    object: Object {
        fields: &[METADATA, Field::object("spec", &CONFIGURATION_SPEC).always()],
        rules: &[],
    },
    name: &NAME,
    on_write: nothing,
    write_rules: only_default,
    on_server: &[DEFAULT_ALONE],
};

static CONFIGURATION_SPEC: Object = Object {
    fields: &[
        Field::bool("strictAffinity")
            .doc("Whether a node takes addresses only from its own blocks.")
            .always()
            .default(Literal::Bool(false)),
        Field::new("maxBlocksPerHost", INT32)
            .doc("The most blocks of a node; 0: 20.")
            .checks(&[Check::Range(0, 1_000_000)])
            .default(Literal::Int(0)),
        Field::bool("autoAllocateBlocks")
            .doc("Whether nodes get blocks when they need them.")
            .always()
            .default(Literal::Bool(true)),
        Field::text("kubeVirtVMAddressPersistence")
            .doc("Whether a virtual machine of KubeVirt keeps its addresses while it moves.")
            .absent("Enabled")
            .if_present()
            .checks(&[Check::OneOf(&["Enabled", "Disabled"])]),
        Field::new("ipCooldownSeconds", INT32)
            .doc("How long an address that was given back stays unused, in seconds.")
            .absent("0")
            .checks(&[Check::Range(0, 1200)]),
    ],
    rules: &[],
};

pub(super) static RESERVATION: Schema = Schema {
    kind: Kind::IPReservation,
    doc: "Addresses that are never given out by themselves.",
    object: Object {
        fields: &[METADATA, Field::object("spec", &RESERVATION_SPEC).always()],
        rules: &[],
    },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

static RESERVATION_SPEC: Object = Object {
    fields: &[Field::list("reservedCIDRs", &Shape::checked(Type::Text, &[Check::Is(&PREFIX)]))
        .doc("Networks whose addresses are never given out by themselves.")],
    rules: &[],
};

pub(super) static BLOCK_AFFINITY: Schema = Schema {
    kind: Kind::BlockAffinity,
    doc: "Which node a block of addresses belongs to. Only address management writes it.",
    object: Object {
        fields: &[METADATA, Field::object("spec", &AFFINITY_SPEC).always()],
        rules: &[],
    },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

static AFFINITY_SPEC: Object = Object {
    fields: &[
        Field::text("state").doc("How far it is: `pending` while the block is made, `confirmed` with it, `pendingDeletion` while it goes.").always().checks(&[Check::OneOf(&[
            "",
            "confirmed",
            "pending",
            "pendingDeletion",
        ])]),
        Field::text("node").doc("Whose block it is.").always(),
        Field::text("type").doc("`host`, or `virtual` for what is on no node.").absent("host"),
        Field::text("cidr").doc("The block.").always().checks(&[Check::Is(&PREFIX)]),
        Field::bool("deleted").doc("It is being deleted, and counts as gone.").always().default(Literal::Bool(false)),
    ],
    rules: &[Rule {
        says: "an affinity isn't written as deleted",
        cel: &[],
        breach: |spec| if spec.flag("deleted") { Breach::at("deleted", "delete it") } else { None },
    }],
};

pub(super) static BLOCK: Schema = Schema {
    kind: Kind::IPAMBlock,
    doc: "A range of addresses that are given out together, and which of them are taken. Only address management writes it; a hand's change can give one address to two pods.",
    object: Object { fields: &[METADATA, Field::object("spec", &BLOCK_SPEC).always()], rules: &[] },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

static AFFINITY: Pattern = Pattern::new(r"^(host|virtual):[a-zA-Z0-9._-]*$");
/// Above 2^63 there is nothing: it counts writes.
const COUNT: Type = Type::Int(0, i64::MAX);

static BLOCK_SPEC: Object = Object {
    fields: &[
        Field::text("cidr")
            .always()
            .checks(&[Check::Is(&PREFIX)])
            .doc("The range, such as `10.0.0.0/26`."),
        Field::text("affinity")
            .checks(&[Check::Pattern(&AFFINITY)])
            .doc("Whose block it is: `host:NODE`, or `virtual:load-balancer`.")
            .absent("it belongs to nobody"),
        Field::new("affinityClaimTime", Type::Time)
            .if_present()
            .doc("When it was taken for its node."),
        Field::list("allocations", &Shape::of(Type::MaybeInt(0, i64::MAX)))
            .always()
            .doc("For each address of the range, in order: null if it is free, else the position in `attributes` of who holds it."),
        Field::list("unallocated", &Shape::of(COUNT))
            .always()
            .doc("The positions of the free addresses, in the order in which they are given out."),
        Field::list("attributes", &Shape::of(Type::Object(&ATTRIBUTE)))
            .always()
            .doc("Who holds addresses."),
        Field::new("sequenceNumber", COUNT).always().doc("Grows with each write."),
        Field::new("sequenceNumberForAllocation", Type::Map(&Shape::of(COUNT)))
            .always()
            .doc("By position: `sequenceNumber` when the address was given out, so that a late release frees nobody else's."),
        Field::bool("deleted").doc("It is being deleted, and counts as gone."),
        Field::bool("strictAffinity").doc("Not used; see IPAMConfiguration."),
    ],
    rules: &[],
};

static ATTRIBUTE: Object = Object {
    fields: &[
        Field::text("handle_id").if_present().doc("The handle of the holder, in lower case."),
        Field::new("secondary", Type::Map(&TEXT))
            .doc("What is known of the holder: `node`, `namespace`, `pod`, `type`, `timestamp`."),
        Field::new("alternateOwnerAttrs", Type::Map(&TEXT)).doc(
            "What is known of the one who takes the address over, while a virtual machine moves.",
        ),
        Field::new("releasedAt", Type::Time)
            .if_present()
            .doc("When the address was given back; it is free after `ipCooldownSeconds`."),
    ],
    rules: &[],
};

pub(super) static HANDLE: Schema = Schema {
    kind: Kind::IPAMHandle,
    doc: "In which blocks somebody, such as a pod, holds how many addresses. Only address management writes it.",
    object: Object {
        fields: &[METADATA, Field::object("spec", &HANDLE_SPEC).always()],
        rules: &[],
    },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

static HANDLE_SPEC: Object = Object {
    fields: &[
        Field::text("handleID")
            .always()
            .required()
            .doc("The handle, as it is spelled; the name is in lower case."),
        Field::new("block", Type::Map(&Shape::of(INT)))
            .always()
            .doc("How many addresses in each block, by the block's CIDR."),
        Field::bool("deleted").doc("It is being deleted, and counts as gone."),
    ],
    rules: &[],
};
