//! Transactions: compares, then one of two lists of operations, applied together at one revision.

use etcd_client::proto::{
    PbCompare, PbResponseOp, PbTargetUnion as Target, PbTxnOpRequest as Op,
    PbTxnOpResponse as OpResponse, PbTxnRequest, PbTxnRequestOp as RequestOp, PbTxnResponse,
};

use super::lease::Leases;
use super::range::{self, View};
use super::{
    KeyValue, MAX_TXN_OPS, Refusal, Span, Writing, check_delete, check_put, header, intervals,
};

// `CompareResult` and `CompareTarget` of etcd's rpc.proto.
const EQUAL: i32 = 0;
const GREATER: i32 = 1;
const LESS: i32 = 2;
const NOT_EQUAL: i32 = 3;
const VERSION: i32 = 0;
const CREATE: i32 = 1;
const MOD: i32 = 2;
const VALUE: i32 = 3;
const LEASE: i32 = 4;

/// What is wrong with the request whatever the store holds.
pub(crate) fn check(request: &PbTxnRequest) -> Result<(), Refusal> {
    check_shape(request, MAX_TXN_OPS)?;
    intervals::check(&request.success)?;
    intervals::check(&request.failure)
}

/// `most` is how many operations are allowed on this level: what the levels above left.
fn check_shape(request: &PbTxnRequest, most: usize) -> Result<(), Refusal> {
    let ops = request.compare.len().max(request.success.len()).max(request.failure.len());
    let left = most.checked_sub(ops).ok_or(Refusal::TooManyOps)?;
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(Refusal::EmptyKey);
    }
    for op in request.success.iter().chain(&request.failure) {
        match &op.request {
            Some(Op::RequestRange(range)) => range::check(range)?,
            Some(Op::RequestPut(put)) => check_put(put)?,
            Some(Op::RequestDeleteRange(delete)) => check_delete(delete)?,
            Some(Op::RequestTxn(txn)) => check_shape(txn, left)?,
            None => return Err(Refusal::KeyNotFound),
        }
    }
    Ok(())
}

/// Whether the transaction can't change anything, so that it needs no place among the writes.
pub(crate) fn is_read_only(request: &PbTxnRequest) -> bool {
    let mut ops = request.success.iter().chain(&request.failure);
    ops.all(|op| matches!(op.request, Some(Op::RequestRange(_))))
}

/// Answers a checked transaction that only reads.
pub(crate) fn read(
    view: View<'_>,
    leases: &Leases,
    request: &PbTxnRequest,
) -> Result<PbTxnResponse, Refusal> {
    let plan = Plan::new(view, leases, request)?;
    let mut response = PbTxnResponse {
        header: Some(header(view.current)),
        succeeded: plan.succeeded,
        responses: Vec::new(),
    };
    for op in plan.ops {
        if let Some(Op::RequestRange(range)) = &op.request {
            response.responses.push(respond(OpResponse::ResponseRange(range::range(view, range)?)));
        }
    }
    Ok(response)
}

/// Applies a checked transaction whose plan was made on the same state.
pub(crate) fn write(writing: &mut Writing<'_>, plan: &Plan<'_>) -> Result<PbTxnResponse, Refusal> {
    let mut response =
        PbTxnResponse { header: None, succeeded: plan.succeeded, responses: Vec::new() };
    let mut nested = plan.nested.iter();
    for op in plan.ops {
        let answer = match &op.request {
            Some(Op::RequestRange(range)) => {
                OpResponse::ResponseRange(range::range(writing.view(), range)?)
            }
            Some(Op::RequestPut(put)) => OpResponse::ResponsePut(writing.put(put)),
            Some(Op::RequestDeleteRange(delete)) => {
                OpResponse::ResponseDeleteRange(writing.delete_range(delete))
            }
            Some(Op::RequestTxn(_)) => {
                let Some(plan) = nested.next() else { continue };
                let mut inner = write(writing, plan)?;
                inner.header = Some(header(0));
                OpResponse::ResponseTxn(inner)
            }
            None => continue,
        };
        response.responses.push(respond(answer));
    }
    Ok(response)
}

fn respond(response: OpResponse) -> PbResponseOp {
    PbResponseOp { response: Some(response) }
}

/// Which branches are taken, decided before anything is written, and found to be possible.
pub(crate) struct Plan<'a> {
    succeeded: bool,
    ops: &'a [RequestOp],
    /// The plans of the nested transactions among `ops`, in their order.
    nested: Vec<Plan<'a>>,
}

impl<'a> Plan<'a> {
    pub(crate) fn new(
        view: View<'_>,
        leases: &Leases,
        request: &'a PbTxnRequest,
    ) -> Result<Self, Refusal> {
        let succeeded = request.compare.iter().all(|compare| holds(view, compare));
        let ops: &[RequestOp] = if succeeded { &request.success } else { &request.failure };
        let mut nested = Vec::new();
        for op in ops {
            match &op.request {
                Some(Op::RequestRange(range)) if range.revision != 0 => {
                    if range.revision > view.current {
                        return Err(Refusal::FutureRevision);
                    }
                    if range.revision < view.compacted {
                        return Err(Refusal::Compacted);
                    }
                }
                Some(Op::RequestPut(put)) => {
                    if (put.ignore_value || put.ignore_lease)
                        && view.keys.at(&put.key, view.current).is_none()
                    {
                        return Err(Refusal::KeyNotFound);
                    }
                    if put.lease != 0 && leases.get(put.lease).is_none() {
                        return Err(Refusal::LeaseNotFound);
                    }
                }
                Some(Op::RequestTxn(txn)) => nested.push(Plan::new(view, leases, txn)?),
                _ => {}
            }
        }
        Ok(Self { succeeded, ops, nested })
    }
}

/// Whether the compare holds for every key in its range. A missing key has zeros for numbers, and no value.
fn holds(view: View<'_>, compare: &PbCompare) -> bool {
    let span = Span::new(&compare.key, &compare.range_end);
    let mut kvs = view.keys.range(&span, view.current).peekable();
    if kvs.peek().is_none() {
        return compare.target != VALUE && holds_for(compare, &KeyValue::default());
    }
    kvs.all(|kv| holds_for(compare, kv))
}

fn holds_for(compare: &PbCompare, kv: &KeyValue) -> bool {
    // A target without its value, or with that of another target, compares with zero.
    let number = |actual: i64, pick: fn(&Target) -> Option<i64>| {
        actual.cmp(&compare.target_union.as_ref().and_then(pick).unwrap_or_default())
    };
    let order = match compare.target {
        VERSION => {
            number(
                kv.version,
                |target| if let Target::Version(n) = target { Some(*n) } else { None },
            )
        }
        CREATE => number(kv.create_revision, |target| {
            if let Target::CreateRevision(n) = target { Some(*n) } else { None }
        }),
        MOD => number(kv.mod_revision, |target| {
            if let Target::ModRevision(n) = target { Some(*n) } else { None }
        }),
        LEASE => {
            number(kv.lease, |target| if let Target::Lease(n) = target { Some(*n) } else { None })
        }
        VALUE => match &compare.target_union {
            Some(Target::Value(value)) => kv.value.as_slice().cmp(value),
            _ => kv.value.as_slice().cmp(&[]),
        },
        _ => std::cmp::Ordering::Equal,
    };
    match compare.result {
        EQUAL => order.is_eq(),
        NOT_EQUAL => order.is_ne(),
        GREATER => order.is_gt(),
        LESS => order.is_lt(),
        // An unknown comparison holds, as in etcd.
        _ => true,
    }
}
