//! Kubernetes objects become the same Calico objects here as in Calico, in every golden case.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

#[path = "golden/conversion.rs"]
mod conversion;
mod golden;

use bulrush_model::translate::translate;
use conversion::Answer;

#[test]
fn every_object_is_translated_as_in_calico() {
    conversion::judge(|objects| {
        let answers = objects.iter().map(|object| {
            let translation = translate(object);
            Answer { objects: translation.objects, errors: translation.faults.len() }
        });
        answers.collect()
    });
}
