//! Which of the partitions this process serves: `"all"`, one, a range, a list.
//!
//! Never here: how many there are to choose from at the broker. That is a setting of its own, and the bound of this one.

use std::collections::BTreeSet;
use std::fmt;

/// A choice of partitions. The printed form is what the file takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionChoice {
    /// As many as there are.
    All,
    /// At least one, each below the number of partitions.
    These(BTreeSet<u16>),
}

impl PartitionChoice {
    /// `Err` says what is wrong with the text.
    pub(super) fn parse(text: &str, partitions: u64) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        let mut these = BTreeSet::new();
        for part in text.split(',').map(str::trim) {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if first > last {
                return Err(format!("the range {first}-{last} is empty"));
            }
            if last >= partitions {
                return Err(format!("{last} is not below amqp.partitions, which is {partitions}"));
            }
            // below the most partitions that there may be, which fit
            for partition in first..=last {
                if !these.insert(partition as u16) {
                    return Err(format!("{partition} is named twice"));
                }
            }
        }
        Ok(Self::These(these))
    }

    /// Each, in order.
    pub(super) fn of(&self, partitions: u32) -> Vec<u16> {
        match self {
            // as above
            Self::All => (0..partitions as u16).collect(),
            Self::These(these) => these.iter().copied().collect(),
        }
    }
}

fn number(text: &str) -> Result<u64, String> {
    // a sign would be taken by the parser
    let digits = text.trim();
    let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|_| is_number).ok_or_else(|| format!("{:?} is no partition", excerpt(digits)))
}

/// Bounded, and never what may be a URL with a password.
fn excerpt(text: &str) -> String {
    if text.contains(['/', '@']) { "…".to_owned() } else { text.chars().take(16).collect() }
}

impl fmt::Display for PartitionChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::These(these) => f.write_str(&in_ranges(these.iter().copied())),
        }
    }
}

/// `0-3,7` of ascending numbers.
pub fn in_ranges(numbers: impl IntoIterator<Item = u16>) -> String {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(number) => *last = number,
            Some(_) | None => ranges.push((number, number)),
        }
    }
    let shown: Vec<String> =
        ranges.iter().map(|(first, last)| if first == last { first.to_string() } else { format!("{first}-{last}") }).collect();
    shown.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_printed() {
        for (text, served, printed) in [
            ("all", &[0, 1, 2, 3, 4, 5, 6, 7][..], "all"),
            ("0", &[0], "0"),
            ("7", &[7], "7"),
            ("0-3", &[0, 1, 2, 3], "0-3"),
            ("5-5", &[5], "5"),
            ("0,2,5-7", &[0, 2, 5, 6, 7], "0,2,5-7"),
            (" 2 , 0 - 1", &[0, 1, 2], "0-2"),
            ("6,4", &[4, 6], "4,6"),
        ] {
            let choice = PartitionChoice::parse(text, 8).unwrap();
            assert_eq!((choice.of(8).as_slice(), choice.to_string().as_str()), (served, printed), "{text}");
            assert_eq!(PartitionChoice::parse(printed, 8), Ok(choice), "{text}");
        }
    }

    #[test]
    fn what_is_no_choice_says_why() {
        for (text, why) in [
            ("", "\"\" is no partition"),
            ("All", "\"All\" is no partition"),
            ("8", "8 is not below amqp.partitions, which is 8"),
            ("0-8", "8 is not below amqp.partitions, which is 8"),
            ("0-18446744073709551615", "18446744073709551615 is not below amqp.partitions, which is 8"),
            ("3-1", "the range 3-1 is empty"),
            ("1,1", "1 is named twice"),
            ("0-2,2", "2 is named twice"),
            ("0,", "\"\" is no partition"),
            ("-1", "\"\" is no partition"),
            ("+1", "\"+1\" is no partition"),
            ("1-2-3", "\"2-3\" is no partition"),
            ("amqp://u:secret@h", "\"…\" is no partition"),
        ] {
            assert_eq!(PartitionChoice::parse(text, 8), Err(why.to_owned()), "{text}");
        }
    }
}
