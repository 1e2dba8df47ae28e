//! Text to syntax tree, in one pass.

use std::fmt;

use arcstr::ArcStr;

use super::{
    MAX_LABEL_LEN, Selector, is_label_byte,
    tree::{Compare, Group, Leaf, Member},
};

/// Why a text is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at byte {position}: expected {expected}, found {found}{}", Hint(.hint))]
pub struct ParseError {
    /// Where, in bytes from the start.
    pub position: usize,
    /// What could have stood there.
    pub expected: &'static str,
    /// What stands there: a short piece of the text.
    pub found: String,
    /// What to do about it, where a common slip was recognised; else empty.
    pub hint: &'static str,
}

struct Hint<'a>(&'a str);

impl fmt::Display for Hint<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

const OPERAND: &str = "a label, has(label), all(), global(), ! or (";
const OPERATOR: &str = "==, !=, in, not in, contains, starts with or ends with after the label";
const CONNECTIVE: &str = "&&, || or the end";
const CONNECTIVE_OR_CLOSE: &str = "&&, || or )";

/// A parenthesis that is still open, or the whole text.
#[derive(Default)]
struct Open {
    /// Whether the whole of it is negated.
    negated: bool,
    /// The finished members of the `||`.
    ors: Vec<Selector>,
    /// The members of the `&&` that is being read.
    ands: Vec<Selector>,
}

impl Open {
    fn push(&mut self, selector: Selector, negated: bool) {
        self.ands.push(if negated { selector.not() } else { selector });
    }

    fn finish_and(&mut self) {
        self.ors.push(Selector::group(Group::And, std::mem::take(&mut self.ands)));
    }

    fn finish(mut self) -> Selector {
        self.finish_and();
        Selector::group(Group::Or, self.ors)
    }
}

pub(super) fn parse(text: &str) -> Result<Selector, ParseError> {
    let mut input = Input { text, at: 0 };
    input.skip_blanks();
    if input.rest().is_empty() {
        return Ok(Selector::all());
    }
    let mut outer: Vec<Open> = Vec::new();
    let mut open = Open::default();
    loop {
        let mut negated = false;
        while input.take("!") {
            negated = !negated;
            input.skip_blanks();
        }
        if input.take("(") {
            outer.push(std::mem::replace(&mut open, Open { negated, ..Open::default() }));
            input.skip_blanks();
            continue;
        }
        open.push(Selector::leaf(input.leaf()?), negated);
        loop {
            input.skip_blanks();
            if input.take("&&") {
                break;
            }
            if input.take("||") {
                open.finish_and();
                break;
            }
            match outer.pop() {
                None if input.rest().is_empty() => return Ok(open.finish()),
                None => return Err(input.connective_error(CONNECTIVE)),
                Some(mut parent) => {
                    if !input.take(")") {
                        return Err(input.connective_error(CONNECTIVE_OR_CLOSE));
                    }
                    let negated = open.negated;
                    parent.push(open.finish(), negated);
                    open = parent;
                }
            }
        }
        input.skip_blanks();
    }
}

/// The text and how far it is read.
struct Input<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Input<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    /// Space and tab are the only blanks (Calico: `selector/tokenizer`).
    fn skip_blanks(&mut self) {
        self.at += self.rest().bytes().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    }

    fn error(&self, expected: &'static str, hint: &'static str) -> ParseError {
        let found = match self.rest().chars().take(12).collect::<String>() {
            piece if piece.is_empty() => "the end".to_owned(),
            piece => format!("{piece:?}"),
        };
        ParseError { position: self.at, expected, found, hint }
    }

    fn connective_error(&self, expected: &'static str) -> ParseError {
        let rest = self.rest();
        let hint = match rest.as_bytes().first() {
            Some(b'&') => "write && with two characters",
            Some(b'|') => "write || with two characters",
            Some(b')') => "this ) has no ( before it",
            Some(b'\n' | b'\r') => "only spaces and tabs may separate words",
            None => "a ( is not closed",
            _ if rest.get(..3).is_some_and(|word| word.eq_ignore_ascii_case("and")) => "write &&",
            _ if rest.get(..2).is_some_and(|word| word.eq_ignore_ascii_case("or")) => "write ||",
            Some(b'\'' | b'"') => {
                "a value ends at the next quote of its kind: there are no escapes"
            }
            Some(byte) if !byte.is_ascii() => "outside of quotes only ASCII is allowed",
            Some(_) => "",
        };
        self.error(expected, hint)
    }

    fn leaf(&mut self) -> Result<Leaf, ParseError> {
        if self.take("has(") {
            self.skip_blanks();
            let label = self.label("the name of a label", "names are not quoted: has(app)")?;
            self.close("has(label)")?;
            return Ok(Leaf::Has(label));
        }
        if self.take("all(") {
            self.close("all()")?;
            return Ok(Leaf::All);
        }
        if self.take("global(") {
            self.close("global()")?;
            return Ok(Leaf::Global);
        }
        let hint = match self.rest().as_bytes().first() {
            Some(b'\'' | b'"') => "a label stands on the left and isn't quoted: app == 'web'",
            Some(b'\n' | b'\r') => "only spaces and tabs may separate words",
            Some(byte) if !byte.is_ascii() => "outside of quotes only ASCII is allowed",
            _ => "",
        };
        let label = self.label(OPERAND, hint)?;
        self.skip_blanks();
        self.condition(label)
    }

    fn close(&mut self, whole: &'static str) -> Result<(), ParseError> {
        self.skip_blanks();
        if self.take(")") { Ok(()) } else { Err(self.error(") at the end of its (", whole)) }
    }

    fn label(&mut self, expected: &'static str, hint: &'static str) -> Result<ArcStr, ParseError> {
        let len = self.rest().bytes().take_while(|byte| is_label_byte(*byte)).count();
        if len == 0 {
            return Err(self.error(expected, hint));
        }
        if len > MAX_LABEL_LEN {
            return Err(self.error("a label of 512 bytes at most", "shorten it"));
        }
        let label = ArcStr::from(&self.rest()[..len]);
        self.at += len;
        Ok(label)
    }

    /// A word of two parts, with any blanks or none between them.
    fn take_both(&mut self, first: &str, second: &str) -> bool {
        let start = self.at;
        if self.take(first) {
            self.skip_blanks();
            if self.take(second) {
                return true;
            }
        }
        self.at = start;
        false
    }

    /// What follows a label. Words are operators here and nowhere else: `in in {"in"}` is fine.
    fn condition(&mut self, label: ArcStr) -> Result<Leaf, ParseError> {
        let compare = if self.take("==") {
            Compare::Eq
        } else if self.take("!=") {
            Compare::Ne
        } else if self.take("contains") {
            Compare::Contains
        } else if self.take_both("starts", "with") {
            Compare::StartsWith
        } else if self.take_both("ends", "with") {
            Compare::EndsWith
        } else if self.take_both("not", "in") {
            return Ok(Leaf::member(label, Member::NotIn, self.set()?));
        } else if self.take("in") {
            return Ok(Leaf::member(label, Member::In, self.set()?));
        } else {
            return Err(self.operator_error(&label));
        };
        self.skip_blanks();
        Ok(Leaf::Compare(label, compare, self.string()?))
    }

    fn operator_error(&self, label: &str) -> ParseError {
        let hint = match self.rest().as_bytes().first() {
            Some(b'=') => "write == with two characters",
            Some(b'(') if matches!(label, "has" | "all" | "global") => {
                "no space before the parenthesis: has(app), all(), global()"
            }
            None | Some(b')' | b'&' | b'|') => "to ask whether a label is there, write has(label)",
            Some(b'A'..=b'Z') => "operators are written in lower case",
            _ => "",
        };
        self.error(OPERATOR, hint)
    }

    fn set(&mut self) -> Result<Vec<ArcStr>, ParseError> {
        self.skip_blanks();
        if !self.take("{") {
            return Err(self.error("{", "a set is written {'a', 'b'}"));
        }
        let mut values = Vec::new();
        loop {
            self.skip_blanks();
            // Also after a comma, but not after a comma alone.
            if self.take("}") {
                return Ok(values);
            }
            values.push(self.string()?);
            self.skip_blanks();
            if !self.take(",") {
                if self.take("}") {
                    return Ok(values);
                }
                return Err(self.error(", or }", "values are separated by commas"));
            }
        }
    }

    fn string(&mut self) -> Result<ArcStr, ParseError> {
        let rest = self.rest();
        let quote = match rest.as_bytes().first() {
            Some(b'\'') => '\'',
            Some(b'"') => '"',
            _ => return Err(self.error("a value in ' or \"", "values are quoted: app == 'web'")),
        };
        let Some((value, _)) = rest[1..].split_once(quote) else {
            return Err(self.error(
                "a value that ends with the quote that it starts with",
                "there are no escapes: put a value with ' into \"",
            ));
        };
        self.at += value.len() + 2;
        Ok(ArcStr::from(value))
    }
}
