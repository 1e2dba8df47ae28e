//! Objects of all kinds, made from bytes.

use bulrush_model::{
    Kind,
    validate::{
        schema::{Check, Object, Shape, Type},
        schemas,
    },
};
use serde_json::{Map, Value, json};

/// Texts that some field somewhere takes, and some that none should.
const TEXTS: [&str; 40] = [
    "default",
    "a",
    "",
    "a.b",
    "node.n1",
    "knp.default.x",
    "A_b",
    "-",
    "ä\u{0}",
    "10.0.0.0/16",
    "10.0.0.1",
    "10.0.0.1/16",
    "10.0.0.0/08",
    "fd00::/64",
    "::ffff:10.0.0.1/96",
    "[fd00::1]:179",
    "all()",
    "global()",
    "a == 'b' && has(c)",
    "a == 'global()'",
    "((((",
    "Allow",
    "Deny",
    "Ingress",
    "Egress",
    "TCP",
    "ICMP",
    "6",
    "80:90",
    "90:80",
    "http",
    "90s",
    "-5s",
    "1.5h",
    "9999999999999999999h",
    "2026-01-31T12:00:00.5+01:00",
    "0000-01-01T00:00:00+24:00",
    "1.10",
    "65000:100",
    "[a-z]{1001}",
];

/// What makes objects of kinds with many rules valid now and then.
const LIKELY: [(&str, &str); 9] = [
    ("name", "default"),
    ("namespace", "a"),
    ("cidr", "10.0.0.0/16"),
    ("ipipMode", "Never"),
    ("node", "a"),
    ("orchestrator", "k8s"),
    ("pod", "a"),
    ("endpoint", "eth0"),
    ("interfaceName", "a"),
];

/// Decisions, drawn from bytes: shorter and smaller bytes are simpler objects.
pub(crate) struct Dice<'a>(std::slice::Iter<'a, u8>);

impl<'a> Dice<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes.iter())
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::from(self.0.next().copied().unwrap_or(0)) % end
    }

    fn text(&mut self) -> Value {
        TEXTS[self.below(TEXTS.len())].into()
    }

    /// Something that fits no type in particular.
    pub(crate) fn odd(&mut self) -> Value {
        let long = "x".repeat(1025);
        let odd = [
            Value::Null,
            json!(0),
            json!(-1),
            json!(26.0),
            json!(1e300),
            json!(u64::MAX),
            json!(false),
            json!([]),
            json!({}),
            json!([null, 1, "a", [[]], {"a": null}]),
            json!({"a": {"b": [{}]}, "": null}),
            json!(long),
        ];
        odd[self.below(odd.len())].clone()
    }

    fn value(&mut self, shape: &Shape) -> Value {
        if self.below(40) == 39 {
            return self.odd();
        }
        let choices = shape.checks.iter().find_map(|check| match check {
            Check::OneOf(choices) => Some(choices),
            _ => None,
        });
        match (shape.ty, choices) {
            (Type::Text, Some(choices)) => choices[self.below(choices.len())].into(),
            (Type::Bool, _) => (self.below(2) == 0).into(),
            (Type::Int(min, max) | Type::MaybeInt(min, max), _) => {
                [1, 0, 80, 1000, -1, min, max, 4_294_967_296][self.below(8)].into()
            }
            (Type::Float, _) => [json!(1.5), json!(10), json!(-0.0)][self.below(3)].clone(),
            (Type::Port | Type::NameOrByte | Type::AsNumber | Type::IntOrText, _) => {
                if self.below(2) == 0 { 80.into() } else { self.text() }
            }
            (Type::List(items), _) => (0..self.below(3)).map(|_| self.value(items)).collect(),
            (Type::Map(values), _) => {
                let mut map = Map::new();
                for _ in 0..self.below(3) {
                    map.insert(TEXTS[self.below(TEXTS.len())].to_owned(), self.value(values));
                }
                map.into()
            }
            (Type::Object(object), _) => self.object(object),
            (Type::Any, _) => self.odd(),
            (Type::Text | Type::Duration | Type::Time, _) => self.text(),
        }
    }

    fn object(&mut self, object: &Object) -> Value {
        let mut fields = Map::new();
        for field in object.fields {
            // Large objects would hardly ever be valid.
            let is_vital = ["metadata", "spec"].contains(&field.name)
                || LIKELY.iter().any(|(name, _)| *name == field.name);
            let is_there = if field.is_required || is_vital {
                self.below(20) != 19
            } else {
                self.below(2 + object.fields.len() / 4) == 1
            };
            if !is_there {
                continue;
            }
            let likely = LIKELY.iter().find(|(name, _)| *name == field.name);
            let value = match likely {
                Some((_, text)) if self.below(4) != 3 => (*text).into(),
                _ => self.value(&field.shape),
            };
            // Such a list is given, and yet not stored: Calico's own oddity.
            if !(field.is_required && value == json!([])) {
                fields.insert(field.name.to_owned(), value);
            }
        }
        fields.into()
    }
}

pub(crate) fn object_of_some_kind(dice: &mut Dice<'_>) -> Value {
    let all: Vec<_> = schemas().collect();
    let schema = all[dice.below(all.len())];
    let mut object = dice.object(&schema.object);
    object["kind"] = schema.kind.name().into();
    // Its name is made from its spec if it isn't given.
    if schema.kind == Kind::WorkloadEndpoint
        && let Some(Value::Object(metadata)) = object.get_mut("metadata")
        && dice.below(2) == 0
    {
        metadata.remove("name");
    }
    object
}
