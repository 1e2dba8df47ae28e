//! Regular expressions that others write: whether Go's `regexp` would compile them.

use regex_syntax::ast::{self, Ast, Flag, FlagsItemKind, RepetitionKind, RepetitionRange};

/// The most repetitions that Go allows.
const MAX_REPEAT: u32 = 1000;

/// Reads the expression; the error says what is wrong with it.
pub(super) fn check(text: &str) -> Result<(), String> {
    let text = without_go_notation(text);
    let parsed =
        ast::parse::Parser::new().parse(&text).map_err(|error| error.kind().to_string())?;
    ast::visit(&parsed, Go)
}

/// Go takes a brace that begins no repetition as it is, and knows `\Q…\E`.
fn without_go_notation(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    let mut is_in_class = false;
    while let Some(char) = rest.chars().next() {
        if let Some(quoted) = rest.strip_prefix("\\Q").filter(|_| !is_in_class) {
            let (quoted, after) = quoted.split_once("\\E").unwrap_or((quoted, ""));
            out.push_str(&regex_syntax::escape(quoted));
            rest = after;
            continue;
        }
        let mut length = char.len_utf8();
        match char {
            '\\' => {
                length += rest[1..].chars().next().map_or(0, char::len_utf8);
                // A name in braces belongs to its escape.
                if rest.starts_with("\\p{") || rest.starts_with("\\P{") || rest.starts_with("\\x{")
                {
                    length = rest.find('}').map_or(rest.len(), |end| end + 1);
                }
            }
            '[' => is_in_class = true,
            ']' => is_in_class = false,
            '{' if !is_in_class && !begins_repetition(&rest[1..]) => out.push('\\'),
            _ => {}
        }
        out.push_str(&rest[..length]);
        rest = &rest[length..];
    }
    out
}

/// `2}`, `2,}`, `2,3}`.
fn begins_repetition(rest: &str) -> bool {
    let is_count = |char: char| char.is_ascii_digit() || char == ',';
    let counts = &rest[..rest.find(|char| !is_count(char)).unwrap_or(rest.len())];
    let (from, to) = counts.split_once(',').unwrap_or((counts, ""));
    !from.is_empty() && !to.contains(',') && rest[counts.len()..].starts_with('}')
}

/// What Rust's syntax allows and Go's doesn't.
struct Go;

impl ast::Visitor for Go {
    type Output = ();
    type Err = String;

    fn finish(self) -> Result<(), String> {
        Ok(())
    }

    fn visit_pre(&mut self, ast: &Ast) -> Result<(), String> {
        match ast {
            Ast::Repetition(repetition) => {
                if matches!(*repetition.ast, Ast::Repetition(_)) {
                    return Err("a repetition is repeated".to_owned());
                }
                let counts = match &repetition.op.kind {
                    RepetitionKind::Range(
                        RepetitionRange::Exactly(count) | RepetitionRange::AtLeast(count),
                    ) => *count,
                    RepetitionKind::Range(RepetitionRange::Bounded(_, to)) => *to,
                    _ => 0,
                };
                if counts > MAX_REPEAT {
                    return Err(format!("more than {MAX_REPEAT} repetitions"));
                }
                Ok(())
            }
            Ast::Flags(flags) => only_known(&flags.flags),
            Ast::Group(group) => match &group.kind {
                ast::GroupKind::NonCapturing(flags) => only_known(flags),
                _ => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

fn only_known(flags: &ast::Flags) -> Result<(), String> {
    let is_unknown = |item: &ast::FlagsItem| {
        let known =
            [Flag::CaseInsensitive, Flag::MultiLine, Flag::DotMatchesNewLine, Flag::SwapGreed];
        matches!(&item.kind, FlagsItemKind::Flag(flag) if !known.contains(flag))
    };
    if flags.items.iter().any(is_unknown) {
        return Err("flags are i, m, s and U".to_owned());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_go_compiles_is_a_regular_expression() {
        for text in [
            "",
            "a{1000}",
            "(?i)x",
            r"\Q.{\E",
            "(?P<n>a)",
            "(?<n>a)",
            "[[:alpha:]]",
            r"\pN",
            r"\p{Greek}",
            "[a-z&&b]",
            r"\z",
            "[]a]",
            r"\_",
            "{",
            "a{,3}",
            r"\x{10FFFF}",
            "(?U)a",
            r"\ ",
            "]",
            "}",
            "^(eth|ens){2}.*$",
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for text in [
            "a{1001}", r"\C", "(?=a)", "a**", "a++", r"\Z", "(?x)a b", "[^]", "x{2}{3}", "(", "*",
            "[b-a]", r"\8", r"\h", "a{2,1}",
        ] {
            assert!(check(text).is_err(), "{text}");
        }
    }
}
