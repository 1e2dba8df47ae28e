//! Running templates on what a command found.
//!
//! Templates are written for Go's structures: a field that a resource doesn't have set prints its
//! zero value, and one that its kind doesn't have is an error. The kinds' schemas know both.

use std::fmt::Write as _;

use model::{
    Kind,
    validate::{
        self,
        schema::{self, Keep, Type},
    },
};
use serde_json::Value;

use super::{Expression, Function, Node};
use crate::resource::{Object, columns, kinds, print::Found};

/// The most that a template may print, in bytes.
const MAX_OUTPUT: usize = 256 << 20;

/// Why a template can't be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Failure(String);

/// What a template is run on.
pub(crate) struct Results<'a> {
    pub(crate) found: &'a [Found],
    /// The cluster's AS number: `config "asnumber"`.
    pub(crate) as_number: &'a str,
}

/// A value under a template.
#[derive(Clone)]
enum Item<'a> {
    Results(&'a [Found]),
    Found(&'a Found),
    Items(&'a [(model::Key, Value)]),
    /// A value that is there or not, of a type.
    Value(Option<&'a Value>, Ty),
    Text(String),
    Number(i64),
}

/// What is known of a value's type.
#[derive(Clone, Copy)]
enum Ty {
    /// A resource of this kind.
    Resource(Kind),
    Shape(&'static Type, Keep),
    Unknown,
}

pub(super) fn run(nodes: &[Node], results: &Results<'_>, out: &mut String) -> Result<(), Failure> {
    let run = Run { as_number: results.as_number };
    run.nodes(nodes, &Item::Results(results.found), out)
}

struct Run<'r> {
    as_number: &'r str,
}

impl Run<'_> {
    fn nodes(&self, nodes: &[Node], dot: &Item<'_>, out: &mut String) -> Result<(), Failure> {
        for node in nodes {
            match node {
                Node::Text(text) => out.push_str(text),
                Node::Print(expression) => self.evaluate(expression, dot)?.print(out)?,
                Node::If { condition, body, otherwise } => {
                    let is_met = self.evaluate(condition, dot)?.is_true();
                    self.nodes(if is_met { body } else { otherwise }, dot, out)?;
                }
                Node::Range { over, body, otherwise } => {
                    let items = self.evaluate(over, dot)?.items()?;
                    if items.is_empty() {
                        self.nodes(otherwise, dot, out)?;
                    }
                    for item in &items {
                        self.nodes(body, item, out)?;
                    }
                }
            }
            if out.len() > MAX_OUTPUT {
                return Err(Failure(format!("it prints more than {} MiB", MAX_OUTPUT >> 20)));
            }
        }
        Ok(())
    }

    fn evaluate<'a>(&self, expression: &Expression, dot: &Item<'a>) -> Result<Item<'a>, Failure> {
        Ok(match expression {
            Expression::Text(text) => Item::Text(text.clone()),
            Expression::Number(number) => Item::Number(*number),
            Expression::Flag(flag) => Item::Text(flag.to_string()),
            Expression::Field(fields) => dot.clone().fields(fields)?,
            Expression::Of(inner, fields) => self.evaluate(inner, dot)?.fields(fields)?,
            Expression::Call(function, arguments) => {
                let arguments: Result<Vec<_>, _> =
                    arguments.iter().map(|argument| self.evaluate(argument, dot)).collect();
                self.call(*function, &arguments?)?
            }
        })
    }

    fn call<'a>(&self, function: Function, arguments: &[Item<'_>]) -> Result<Item<'a>, Failure> {
        let text = |item: &Item<'_>| {
            let mut text = String::new();
            item.print(&mut text).map(|()| text)
        };
        Ok(match (function, arguments) {
            (Function::Config, [name]) => match text(name)?.to_lowercase().as_str() {
                "asnumber" => Item::Text(self.as_number.to_owned()),
                other => {
                    return Err(Failure(format!(
                        "config {other:?} isn't known; there is \"asnumber\""
                    )));
                }
            },
            (Function::Len, [list]) => Item::Number(list.length()?),
            (Function::Join, [list, separator]) => {
                Item::Text(joined(&list.texts()?, &text(separator)?, 0))
            }
            (Function::JoinAndTruncate, [list, separator, Item::Number(longest)]) => {
                let longest = usize::try_from(*longest).unwrap_or_default();
                Item::Text(joined(&list.texts()?, &text(separator)?, longest))
            }
            (Function::JoinAndTruncate, _) => {
                return Err(Failure(
                    "the third argument of joinAndTruncate is a number".to_owned(),
                ));
            }
            _ => return Err(Failure("a function with too few arguments".to_owned())),
        })
    }
}

/// The texts with the separator between them, cut at so many bytes if that isn't 0.
fn joined(texts: &[String], separator: &str, longest: usize) -> String {
    let mut out = String::new();
    for (index, text) in texts.iter().enumerate() {
        if index > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
        if longest > 0 && out.len() > longest {
            let mut end = longest.saturating_sub(3);
            while !out.is_char_boundary(end) {
                end -= 1;
            }
            out.truncate(end);
            out.push_str("...");
            break;
        }
    }
    out
}

impl Item<'_> {
    fn fields(mut self, fields: &[String]) -> Result<Self, Failure> {
        for field in fields {
            self = self.field(field)?;
        }
        Ok(self)
    }

    fn field(self, name: &str) -> Result<Self, Failure> {
        match self {
            Self::Found(Found::One(key, object)) => resource_field(key.kind, Some(object), name),
            Self::Found(Found::List { kind, objects, version }) => match name {
                "Items" => Ok(Self::Items(objects)),
                "Kind" => Ok(Self::Text(format!("{kind}List"))),
                "ResourceVersion" => Ok(Self::Text(version.to_string())),
                _ => Err(Failure(format!(
                    "a {kind}List has no field {name}; it has Items: {{{{range .Items}}}}…{{{{end}}}}"
                ))),
            },
            Self::Value(value, Ty::Resource(kind)) => resource_field(kind, value, name),
            Self::Value(value, Ty::Shape(Type::Object(object), _)) => {
                object_field(object, value, name)
            }
            Self::Value(Some(Value::Object(fields)), _) => {
                Ok(Self::Value(by_name(fields, name), Ty::Unknown))
            }
            Self::Value(None, Ty::Shape(Type::Map(_), _)) => Ok(Self::Value(None, Ty::Unknown)),
            Self::Results(_) | Self::Items(_) => Err(Failure(format!(
                "a list has no field {name}; write {{{{range .}}}}{{{{.{name}}}}}{{{{end}}}}"
            ))),
            _ => Err(Failure(format!("what has no fields has no {name}"))),
        }
    }

    fn items(self) -> Result<Vec<Self>, Failure> {
        Ok(match self {
            Self::Results(found) => found.iter().map(Self::Found).collect(),
            Self::Items(objects) => objects
                .iter()
                .map(|(key, object)| Self::Value(Some(object), Ty::Resource(key.kind)))
                .collect(),
            Self::Value(Some(Value::Array(items)), ty) => {
                let ty = match ty {
                    Ty::Shape(Type::List(items), _) => Ty::Shape(&items.ty, Keep::Always),
                    _ => Ty::Unknown,
                };
                items.iter().map(|item| Self::Value(Some(item), ty)).collect()
            }
            Self::Value(Some(Value::Object(fields)), Ty::Shape(Type::Map(_), _) | Ty::Unknown) => {
                fields.values().map(|value| Self::Value(Some(value), Ty::Unknown)).collect()
            }
            Self::Value(None, _) => Vec::new(),
            _ => return Err(Failure("range needs a list, such as {{range .Items}}".to_owned())),
        })
    }

    fn length(&self) -> Result<i64, Failure> {
        let length = match self {
            Self::Results(found) => found.len(),
            Self::Items(objects) => objects.len(),
            Self::Value(Some(Value::Array(items)), _) => items.len(),
            Self::Value(Some(Value::Object(fields)), Ty::Shape(Type::Map(_), _) | Ty::Unknown) => {
                fields.len()
            }
            Self::Text(text) | Self::Value(Some(Value::String(text)), _) => text.len(),
            Self::Value(None, Ty::Shape(Type::List(_) | Type::Map(_) | Type::Text, _)) => 0,
            _ => return Err(Failure("len is of a list, a map or a text".to_owned())),
        };
        Ok(i64::try_from(length).unwrap_or(i64::MAX))
    }

    /// As Go has it: what is zero, empty or not there is false.
    fn is_true(&self) -> bool {
        match self {
            Self::Results(found) => !found.is_empty(),
            Self::Items(objects) => !objects.is_empty(),
            Self::Found(_) => true,
            Self::Text(text) => !text.is_empty() && text != "false",
            Self::Number(number) => *number != 0,
            Self::Value(None | Some(Value::Null), ty) => match ty {
                // A structure is always there, and always true.
                Ty::Shape(Type::Object(_), keep) => *keep != Keep::IfPresent,
                _ => false,
            },
            Self::Value(Some(value), _) => match value {
                Value::Null => false,
                Value::Bool(flag) => *flag,
                Value::Number(number) => number.as_f64() != Some(0.0),
                Value::String(text) => !text.is_empty(),
                Value::Array(items) => !items.is_empty(),
                Value::Object(_) => true,
            },
        }
    }

    /// What `join` puts together.
    fn texts(&self) -> Result<Vec<String>, Failure> {
        let text = |value: &Value| {
            let mut text = String::new();
            print_value(value, &mut text).map(|()| text)
        };
        match self {
            Self::Value(Some(Value::Array(items)), _) => items.iter().map(text).collect(),
            Self::Value(Some(Value::Object(fields)), Ty::Shape(Type::Map(_), _) | Ty::Unknown) => {
                fields.iter().map(|(name, value)| Ok(format!("{name}={}", text(value)?))).collect()
            }
            Self::Value(None, Ty::Shape(Type::List(_) | Type::Map(_), _)) => Ok(Vec::new()),
            other => {
                let mut text = String::new();
                other.print(&mut text).map(|()| vec![text])
            }
        }
    }

    fn print(&self, out: &mut String) -> Result<(), Failure> {
        match self {
            Self::Text(text) => out.push_str(text),
            Self::Number(number) => {
                // Writing to a String doesn't fail.
                let _ = write!(out, "{number}");
            }
            Self::Value(Some(value), Ty::Shape(Type::Object(object), _)) if value.is_object() => {
                return Err(structure(object));
            }
            Self::Value(Some(Value::Number(number)), Ty::Shape(Type::Float, _)) => {
                out.push_str(&columns::float(number.as_f64().unwrap_or_default()));
            }
            Self::Value(Some(value), Ty::Shape(..) | Ty::Unknown) => print_value(value, out)?,
            Self::Value(None, ty) => out.push_str(zero(*ty)?),
            Self::Value(_, Ty::Resource(_)) | Self::Found(_) => {
                let text = "a resource isn't printed whole; name a field, such as {{.Name}}";
                return Err(Failure(text.to_owned()));
            }
            Self::Results(_) | Self::Items(_) => {
                let text = "a list of resources isn't printed whole; write \
                            {{range .}}{{.Name}}{{end}}";
                return Err(Failure(text.to_owned()));
            }
        }
        Ok(())
    }
}

fn structure(object: &schema::Object) -> Failure {
    let fields: Vec<_> = object.fields.iter().map(|field| field.name).collect();
    Failure(format!(
        "a structure isn't printed whole; name one of its fields: {}",
        fields.join(", ")
    ))
}

/// What Go prints where nothing is set.
fn zero(ty: Ty) -> Result<&'static str, Failure> {
    Ok(match ty {
        Ty::Shape(Type::Object(object), keep) => {
            if keep != Keep::IfPresent {
                return Err(structure(object));
            }
            "<nil>"
        }
        Ty::Shape(Type::List(_), _) => "[]",
        Ty::Shape(Type::Map(_), _) => "map[]",
        Ty::Shape(_, Keep::IfPresent) => "<nil>",
        Ty::Shape(Type::Bool, _) => "false",
        Ty::Shape(Type::Text, _) => "",
        Ty::Shape(Type::Int(..) | Type::Float, _) => "0",
        _ => "<nil>",
    })
}

/// A value as Go prints it: lists as `[a b]`, maps as `map[a:b]`.
fn print_value(value: &Value, out: &mut String) -> Result<(), Failure> {
    match value {
        Value::Null => out.push_str("<nil>"),
        Value::Bool(flag) => out.push_str(if *flag { "true" } else { "false" }),
        Value::Number(number) => {
            let _ = write!(out, "{number}");
        }
        Value::String(text) => out.push_str(text),
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                print_value(item, out)?;
            }
            out.push(']');
        }
        Value::Object(fields) => {
            out.push_str("map[");
            for (index, (name, value)) in fields.iter().enumerate() {
                if index > 0 {
                    out.push(' ');
                }
                out.push_str(name);
                out.push(':');
                print_value(value, out)?;
            }
            out.push(']');
        }
    }
    Ok(())
}

fn by_name<'a>(fields: &'a Object, name: &str) -> Option<&'a Value> {
    fields
        .get(name)
        .or_else(|| fields.iter().find(|(it, _)| it.eq_ignore_ascii_case(name)).map(|it| it.1))
        .filter(|value| !value.is_null())
}

/// A field of a resource. Go's structures have those of the metadata in the resource itself.
fn resource_field<'a>(
    kind: Kind,
    object: Option<&'a Value>,
    name: &str,
) -> Result<Item<'a>, Failure> {
    let get = |field: &str| object.and_then(|object| object.get(field));
    match name {
        "Kind" => return Ok(Item::Text(kind.name().to_owned())),
        "APIVersion" => return Ok(Item::Text(crate::resource::API_VERSION.to_owned())),
        "TypeMeta" => return Ok(Item::Value(object, Ty::Unknown)),
        _ => {}
    }
    let Some(schema) = validate::schemas().find(|schema| schema.kind == kind) else {
        let name = if name == "ObjectMeta" { "metadata" } else { name };
        return Item::Value(object, Ty::Unknown).field(name);
    };
    let field = |name: &str| schema.object.fields.iter().find(|field| field.name == name);
    let metadata = field("metadata").map(|field| &field.shape.ty);
    if name == "ObjectMeta" {
        return Ok(Item::Value(
            get("metadata"),
            metadata.map_or(Ty::Unknown, |ty| Ty::Shape(ty, Keep::Always)),
        ));
    }
    if let Some(field) = field(&name.to_lowercase()).filter(|field| field.name != "metadata") {
        return Ok(Item::Value(get(field.name), Ty::Shape(&field.shape.ty, field.keep)));
    }
    match metadata {
        Some(Type::Object(metadata))
            if metadata.fields.iter().any(|field| field.name.eq_ignore_ascii_case(name)) =>
        {
            object_field(metadata, get("metadata"), name)
        }
        _ => Err(Failure(format!(
            "a {kind} has no field {name}; it has Name, Namespace, Labels, Annotations, Spec"
        ))),
    }
}

fn object_field<'a>(
    object: &'static schema::Object,
    value: Option<&'a Value>,
    name: &str,
) -> Result<Item<'a>, Failure> {
    let Some(field) = object.fields.iter().find(|field| field.name.eq_ignore_ascii_case(name))
    else {
        let names = || object.fields.iter().map(|field| field.name);
        let way_out = match kinds::nearest(name, names()) {
            Some(near) => format!("did you mean {near}?"),
            None => format!("there are {}", names().collect::<Vec<_>>().join(", ")),
        };
        return Err(Failure(format!("there is no field {name} here; {way_out}")));
    };
    let value = value.and_then(|value| value.get(field.name)).filter(|value| !value.is_null());
    Ok(Item::Value(value, Ty::Shape(&field.shape.ty, field.keep)))
}
