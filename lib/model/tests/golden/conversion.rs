//! The golden cases of the translation, whoever answers them.

use std::fs;

use serde_json::{Value, json};

use crate::golden::{self, Verdicts};

/// What an object became.
pub(crate) struct Answer {
    pub(crate) objects: Vec<Value>,
    /// How many errors came with it.
    pub(crate) errors: usize,
}

/// Asks for every case and compares with Calico's answers.
pub(crate) fn judge(translate: impl FnOnce(&[Value]) -> Vec<Answer>) {
    let cases = cases();
    if cases.is_empty() {
        return;
    }
    let objects: Vec<_> = cases.iter().map(object).collect();
    let answers = translate(&objects);
    assert_eq!(answers.len(), cases.len());
    let mut verdicts = Verdicts::new("conversion.jsonl");
    for (case, answer) in cases.iter().zip(&answers) {
        let id = case["id"].as_str().expect("an id");
        let (calicos, ours) = difference(&calicos_objects(case), &answer.objects);
        let mut wrong = Vec::new();
        if calicos != ours {
            wrong.push(format!("`{calicos}` → `{ours}`"));
        }
        // Types that are added, and other quotes, leave nothing out.
        let is_whole = calicos == r#"{"types":[]}"# || calicos == ours.replace(r#"\""#, "'");
        if answer.errors == 0 && (case["error"].is_string() || !is_whole) {
            verdicts.wrong(id, "nothing says what isn't translated");
        }
        verdicts.judge(id, &wrong, &calicos, &ours);
    }
    verdicts.finish();
}

/// The objects of all cases.
#[allow(dead_code, reason = "not every test binary that includes this needs it")]
pub(crate) fn objects() -> Vec<Value> {
    cases().iter().map(object).collect()
}

/// None without the folder of the cases, which says so.
fn cases() -> Vec<Value> {
    let Some(folder) = golden::folder() else { return Vec::new() };
    let text = fs::read_to_string(folder.join("conversion.jsonl")).expect("conversion.jsonl");
    text.lines().map(|line| serde_json::from_str(line).expect("a case")).collect()
}

/// Calico's converters are told the kind; we read it from the object.
fn object(case: &Value) -> Value {
    let mut object = case["input"].clone();
    let fields = object.as_object_mut().expect("an object");
    fields.entry("kind").or_insert_with(|| case["kind"].clone());
    object
}

fn calicos_objects(case: &Value) -> Vec<Value> {
    match &case["output"] {
        Value::Null => Vec::new(),
        Value::Array(objects) => objects.clone(),
        object => vec![object.clone()],
    }
}

/// What differs, as JSON: of specs the fields, and of lists what lies between the parts that are
/// equal; where more than the specs differ, the objects.
fn difference(calicos: &[Value], ours: &[Value]) -> (String, String) {
    if let ([calicos], [ours]) = (calicos, ours) {
        let mut rests = [calicos.clone(), ours.clone()];
        let [a, b] = rests.each_mut().map(|object| object["spec"].take());
        if rests[0] == rests[1] {
            return (differing(&a, &b).to_string(), differing(&b, &a).to_string());
        }
    }
    (json!(calicos).to_string(), json!(ours).to_string())
}

/// The fields of a spec that another has not, or otherwise.
fn differing(spec: &Value, other: &Value) -> Value {
    let fields = spec.as_object().expect("a spec").iter();
    let differing = fields.filter(|(field, value)| other.get(*field) != Some(value));
    let differing = differing.map(|(field, value)| {
        let value = match (value, other.get(field)) {
            (Value::Array(items), Some(Value::Array(others))) => between(items, others),
            _ => value.clone(),
        };
        (field.clone(), value)
    });
    Value::Object(differing.collect())
}

/// What of a list lies between its start and its end that are the other's too.
fn between(items: &[Value], others: &[Value]) -> Value {
    let equal = |pairs: &mut dyn Iterator<Item = (&Value, &Value)>| {
        pairs.take_while(|(item, other)| item == other).count()
    };
    let start = equal(&mut items.iter().zip(others));
    let rests = (&items[start..], &others[start..]);
    let end = equal(&mut rests.0.iter().rev().zip(rests.1.iter().rev()));
    json!(items[start..items.len() - end])
}
