//! The mix: what the traffic of a load run is made of. Never here: an event, or when it is sent.

use std::str::FromStr;

use crate::load::dice::Dice;
use crate::model::report::Severity;

/// What the SOC asks for: the four shapes of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    Assisted,
    Manual,
    Both,
    /// Informational: nothing to approve.
    None,
}

/// How often each of `N` kinds comes up: `2:1:3:1`. Not all zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Weights<const N: usize>(pub [u32; N]);

impl<const N: usize> Weights<N> {
    /// The index of a kind, by chance.
    pub(super) fn draw(&self, dice: &mut Dice) -> usize {
        let sum: u32 = self.0.iter().sum();
        let mut at = dice.between(0, sum.saturating_sub(1));
        for (index, weight) in self.0.iter().enumerate() {
            if at < *weight {
                return index;
            }
            at -= weight;
        }
        0
    }
}

impl<const N: usize> FromStr for Weights<N> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = || format!("expected {N} weights from 0 to 1000 with colons between them, not all 0");
        let weights: Vec<u32> = text
            .split(':')
            .map(|part| part.trim().parse().ok().filter(|weight| *weight <= 1_000))
            .collect::<Option<_>>()
            .ok_or_else(expected)?;
        let weights: [u32; N] = weights.try_into().map_err(|_| expected())?;
        if weights.iter().all(|weight| *weight == 0) { Err(expected()) } else { Ok(Self(weights)) }
    }
}

/// Milliseconds, both ends included: `200-1000`, or one number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DelayMs {
    pub least: u32,
    pub most: u32,
}

impl DelayMs {
    /// In microseconds, by chance.
    pub(super) fn draw_us(&self, dice: &mut Dice) -> u64 {
        u64::from(dice.between(self.least, self.most)) * 1_000
    }
}

impl FromStr for DelayMs {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (least, most) = text.split_once('-').unwrap_or((text, text));
        match (least.trim().parse(), most.trim().parse()) {
            (Ok(least), Ok(most)) if least <= most && most <= 600_000 => Ok(Self { least, most }),
            _ => Err("expected milliseconds up to 600000 as MIN-MAX, or one number".to_owned()),
        }
    }
}

/// What the traffic consists of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mix {
    pub seed: u64,
    pub tenants: u32,
    /// Per tenant.
    pub agents: u32,
    /// assisted : manual : both : none
    pub shapes: Weights<4>,
    /// low : high : critical
    pub severities: Weights<3>,
    /// From a report's arrival to the approval of its plan, and between the steps after that.
    pub approval_delay: DelayMs,
    /// Of a hundred reports with assisted tasks, those in which a task does not succeed at its first attempt.
    pub fail_percent: u32,
    /// Of a hundred events, at least so many surveys; 100 sends nothing else.
    pub survey_percent: u32,
}

impl Mix {
    pub(super) fn shape(&self, dice: &mut Dice) -> Shape {
        match self.shapes.draw(dice) {
            0 => Shape::Assisted,
            1 => Shape::Manual,
            2 => Shape::Both,
            _ => Shape::None,
        }
    }

    pub(super) fn severity(&self, dice: &mut Dice) -> Severity {
        match self.severities.draw(dice) {
            0 => Severity::Low,
            1 => Severity::High,
            _ => Severity::Critical,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_drawn_as_often_as_they_say() {
        let weights: Weights<4> = "2:0:1:1".parse().expect("weights");
        let mut dice = Dice::new(7, 1);
        let mut drawn = [0_u32; 4];
        for _ in 0..4_000 {
            drawn[weights.draw(&mut dice)] += 1;
        }
        assert_eq!(drawn[1], 0);
        assert!((1_850..2_150).contains(&drawn[0]) && (850..1_150).contains(&drawn[2]), "{drawn:?}");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "1:2:3", "0:0:0:0", "1:1:1:x", "1:1:1:-1", "1:1:1:1:1", "1:1:1:2000"] {
            assert!(text.parse::<Weights<4>>().is_err(), "{text:?}");
        }
        for text in ["", "5-1", "x", "-5", "1-700000"] {
            assert!(text.parse::<DelayMs>().is_err(), "{text:?}");
        }
        assert_eq!("7".parse(), Ok(DelayMs { least: 7, most: 7 }));
    }
}
