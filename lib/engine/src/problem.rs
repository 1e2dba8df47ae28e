//! Objects that can't be used as they are, and what that costs.

use std::fmt;

use model::kinds::Invalid;

/// Why an object doesn't have the effect that was written. It never lets more traffic through.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// What happens to the object.
    pub effect: Effect,
    /// What is wrong; never empty.
    pub faults: Vec<Invalid>,
}

/// What a problem costs its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Effect {
    /// Parts that can't be read are left out; the rest works.
    Partial,
    /// Rules that can't be expressed match nothing when they allow, and more when they deny.
    Rules,
    /// A policy whose selector can't be read selects nothing.
    SelectsNothing,
    /// The object counts as absent.
    Absent,
}

impl Effect {
    /// A short name, for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Partial => "partial",
            Self::Rules => "rules",
            Self::SelectsNothing => "selects_nothing",
            Self::Absent => "absent",
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match self.effect {
            Effect::Partial => "left out",
            Effect::Rules => "rules that allow match nothing, rules that deny match more",
            Effect::SelectsNothing => "it selects nothing",
            Effect::Absent => "the object counts as absent",
        };
        write!(f, "{effect}: ")?;
        for (index, fault) in self.faults.iter().enumerate() {
            write!(f, "{}{fault}", if index > 0 { "; " } else { "" })?;
        }
        Ok(())
    }
}
