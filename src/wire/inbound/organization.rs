//! `organization.updated`, `organization.deleted`, `funnel.counted`: what is said of a tenant as a whole.
//!
//! Never here: the settings as they stand, or which of two updates is the newer. A setting that is absent or
//! `null` is not named. One that is named wrongly refuses the whole update: half an update would be a third
//! configuration that nobody has asked for.
//!
//! ```json
//! {"time_zone": "Australia/Sydney",
//!  "business_hours": {"opens": "09:00", "closes": "17:00", "days": ["mon", "tue", "wed", "thu", "fri"]},
//!  "managed_response": {"low": true, "high": false, "critical": false},
//!  "unresponsive_after_days": 21,
//!  "release_on_resolve": false,
//!  "auto_close_when_footholds_cleared": false,
//!  "close_on_agent_removed": false,
//!  "resolve_when_unblocked": false,
//!  "sla": {"critical_minutes": 15, "high_warning_minutes": 45, "high_minutes": 60, "low_business_minutes": 480}}
//! ```
//!
//! `business_hours` is one whole: opening and closing in the organization's time zone, on one day (`24:00`
//! closes at its end), and at least one day. `sla` is one whole too: what it leaves out is the default, and
//! not what was set before. Of `managed_response` each member stands for itself.

use std::borrow::Cow;

use jiff::tz::TimeZone;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::{Deserializer, Error};
use serde_json::{Map, Value};

use super::fields::{Count, Object, Within, read};
use crate::machine::event::{EventKind, FunnelCount, SettingsChange};
use crate::model::organization::SlaSettings;
use crate::wire::words::{OneOf, word_list};
use crate::wire::{Fault, limits};

type Days = Within<{ limits::UNRESPONSIVE_DAYS_LEAST }, { limits::UNRESPONSIVE_DAYS_MOST }>;
type Minutes = Within<1, { limits::SLA_MINUTES }>;

/// Settings of the organization. What is absent or null stays as it is.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "OrganizationUpdated")]
pub(super) struct Updated {
    time_zone: Option<Zone>,
    business_hours: Option<Object<HoursForm>>,
    managed_response: Option<Object<ManagedForm>>,
    unresponsive_after_days: Option<Days>,
    release_on_resolve: Option<bool>,
    auto_close_when_footholds_cleared: Option<bool>,
    close_on_agent_removed: Option<bool>,
    resolve_when_unblocked: Option<bool>,
    sla: Option<Object<SlaForm>>,
}

/// In the organization's time zone. It closes later than it opens, on the same day.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "BusinessHours")]
struct HoursForm {
    opens: MinuteOfDay,
    closes: MinuteOfDay,
    #[schemars(length(min = 1), extend("uniqueItems" = true))]
    days: Vec<OneOf<Day>>,
}

word_list! {
    /// Monday first, as the model counts them.
    pub(in crate::wire) Day {
        Monday = "mon",
        Tuesday = "tue",
        Wednesday = "wed",
        Thursday = "thu",
        Friday = "fri",
        Saturday = "sat",
        Sunday = "sun",
    }
}

/// Of which severities plans are approved without a person.
#[derive(Default, Deserialize, JsonSchema)]
#[schemars(rename = "ManagedResponse")]
struct ManagedForm {
    low: Option<bool>,
    high: Option<bool>,
    critical: Option<bool>,
}

/// One whole: what it leaves out is the default. The warning comes before the breach.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "Sla")]
struct SlaForm {
    critical_minutes: Option<Minutes>,
    high_warning_minutes: Option<Minutes>,
    high_minutes: Option<Minutes>,
    low_business_minutes: Option<Minutes>,
}

pub fn updated(data: Value) -> Result<EventKind, Fault> {
    let form = read::<Updated>(data)?;
    let business_hours = match form.business_hours {
        Some(Object(hours)) => Some(business_hours(hours, "data.business_hours")?),
        None => None,
    };
    let sla = match form.sla {
        Some(Object(sla)) => Some(sla_settings(&sla, "data.sla")?),
        None => None,
    };
    let managed = form.managed_response.map_or_else(ManagedForm::default, |Object(managed)| managed);
    Ok(EventKind::OrganizationUpdated(Box::new(SettingsChange {
        time_zone: form.time_zone.map(|Zone(name)| name),
        business_hours,
        managed_low: managed.low,
        managed_high: managed.high,
        managed_critical: managed.critical,
        unresponsive_after_days: form.unresponsive_after_days.map(|Within(days)| days),
        release_on_resolve: form.release_on_resolve,
        auto_close_when_footholds_cleared: form.auto_close_when_footholds_cleared,
        close_on_agent_removed: form.close_on_agent_removed,
        resolve_when_unblocked: form.resolve_when_unblocked,
        sla,
    })))
}

fn business_hours(form: HoursForm, at: &str) -> Result<(u16, u16, [bool; 7]), Fault> {
    let (opens, closes) = (form.opens.0, form.closes.0);
    if opens >= closes {
        return Err(Fault::invalid(format!("{at}.closes: not later than opens, on the same day")));
    }
    if form.days.is_empty() {
        return Err(Fault::invalid(format!("{at}.days: none")));
    }
    let mut days = [false; 7];
    for (index, OneOf(day)) in form.days.into_iter().enumerate() {
        let works = &mut days[day as usize];
        if *works {
            return Err(Fault::invalid(format!("{at}.days[{index}]: is there twice")));
        }
        *works = true;
    }
    Ok((opens, closes, days))
}

fn sla_settings(form: &SlaForm, at: &str) -> Result<SlaSettings, Fault> {
    let or = |given: Option<Minutes>, default: u16| given.map_or(default, |Within(minutes)| minutes);
    let default = SlaSettings::default();
    let sla = SlaSettings {
        critical_minutes: or(form.critical_minutes, default.critical_minutes),
        high_warning_minutes: or(form.high_warning_minutes, default.high_warning_minutes),
        high_minutes: or(form.high_minutes, default.high_minutes),
        low_business_minutes: or(form.low_business_minutes, default.low_business_minutes),
    };
    if sla.high_warning_minutes >= sla.high_minutes {
        // both numbers: one of them may be a default that its sender did not think of
        let (warning, breach) = (sla.high_warning_minutes, sla.high_minutes);
        return Err(Fault::invalid(format!("{at}: high_warning_minutes ({warning}) is not below high_minutes ({breach})")));
    }
    Ok(sla)
}

/// A zone of the IANA database, in the database's own spelling (look-ups ignore case).
struct Zone(String);

impl<'de> Deserialize<'de> for Zone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        // `Etc/Unknown` is found, has no name, and means that nobody knows
        let zone = TimeZone::get(&text).ok();
        let name = zone.as_ref().and_then(TimeZone::iana_name);
        name.map(|name| Zone(name.to_owned())).ok_or_else(|| D::Error::custom("not a zone of the IANA database"))
    }
}

impl JsonSchema for Zone {
    fn schema_name() -> Cow<'static, str> {
        "TimeZone".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A zone of the IANA database, such as Australia/Sydney",
            "type": "string",
            "pattern": "^[A-Za-z][A-Za-z0-9/_.+-]*$",
        })
    }
}

/// Minutes after midnight, written `HH:MM`, from `00:00` to `24:00`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct MinuteOfDay(u16);

impl MinuteOfDay {
    fn parse(text: &str) -> Option<Self> {
        let [h1, h2, b':', m1, m2] = *text.as_bytes() else {
            return None;
        };
        let two = |tens: u8, ones: u8| {
            (tens.is_ascii_digit() && ones.is_ascii_digit()).then(|| u16::from(tens - b'0') * 10 + u16::from(ones - b'0'))
        };
        let (hour, minute) = (two(h1, h2)?, two(m1, m2)?);
        let in_day = minute < 60 && hour * 60 + minute <= 24 * 60;
        in_day.then_some(Self(hour * 60 + minute))
    }
}

impl<'de> Deserialize<'de> for MinuteOfDay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom("not HH:MM, from 00:00 to 24:00"))
    }
}

impl JsonSchema for MinuteOfDay {
    fn schema_name() -> Cow<'static, str> {
        "MinuteOfDay".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "HH:MM, from 00:00 to 24:00",
            "type": "string",
            "pattern": "^(([01][0-9]|2[0-3]):[0-5][0-9]|24:00)$",
        })
    }
}

/// Nothing is said beside the fact, so `data` may be missing. What is there instead has to be an object all the same.
pub fn deleted(data: Value) -> Result<EventKind, Fault> {
    if !data.is_null() {
        read::<Map<String, Value>>(data)?;
    }
    Ok(EventKind::OrganizationDeleted)
}

/// What the SOC has counted in a month.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "FunnelCounted")]
pub(super) struct Counted {
    period: Month,
    events_analysed: Count,
    signals: Count,
    signals_investigated: Count,
}

pub fn counted(data: Value) -> Result<EventKind, Fault> {
    let form = read::<Counted>(data)?;
    Ok(EventKind::FunnelCounted(FunnelCount {
        period: form.period.0,
        events_analysed: form.events_analysed.0,
        signals: form.signals.0,
        signals_investigated: form.signals_investigated.0,
    }))
}

/// `2026-11`: one spelling per month, from 1970 on as all our times.
struct Month(String);

impl<'de> Deserialize<'de> for Month {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if is_month(&text) { Ok(Month(text)) } else { Err(D::Error::custom("not a month, YYYY-MM, from 1970 on")) }
    }
}

impl JsonSchema for Month {
    fn schema_name() -> Cow<'static, str> {
        "Month".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "YYYY-MM, from 1970 on",
            "type": "string",
            "pattern": "^(19[7-9][0-9]|[2-9][0-9]{3})-(0[1-9]|1[0-2])$",
        })
    }
}

fn is_month(text: &str) -> bool {
    let Some((year, month)) = text.split_once('-') else {
        return false;
    };
    let digits = |text: &str, length: usize| text.len() == length && text.bytes().all(|byte| byte.is_ascii_digit());
    // of equal length, so their order is the order of their numbers
    digits(year, 4) && year >= "1970" && digits(month, 2) && ("01"..="12").contains(&month)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn times_of_day() {
        for (text, minute) in [("00:00", 0), ("09:00", 540), ("17:30", 1_050), ("23:59", 1_439), ("24:00", 1_440)] {
            assert_eq!(MinuteOfDay::parse(text), Some(MinuteOfDay(minute)), "{text}");
        }
        for text in ["", "9:00", "09:0", "0900", "09.00", "09:00:00", "24:01", "25:00", "09:60", "+9:00", " 9:00", "９:0", "99:99"] {
            assert_eq!(MinuteOfDay::parse(text), None, "{text:?} was taken");
        }
    }

    #[test]
    fn months() {
        for text in ["1970-01", "2026-11", "9999-12"] {
            assert!(is_month(text), "{text}");
        }
        for text in
            ["", "2026", "2026-1", "2026-00", "2026-13", "26-11", "1969-12", "02026-11", "2026-11-01", "2026/11", "2026-1a", "-026-11"]
        {
            assert!(!is_month(text), "{text:?} was taken");
        }
    }

    #[test]
    fn zones_have_one_spelling() {
        for (text, name) in
            [("UTC", "UTC"), ("utc", "UTC"), ("Australia/Sydney", "Australia/Sydney"), ("america/new_york", "America/New_York")]
        {
            let zone: Zone = serde_json::from_value(json!(text)).unwrap();
            assert_eq!(zone.0, name);
        }
        for text in ["", "Sydney", "Australia/Atlantis", "Etc/Unknown", "+10:00", "AEST-10", "../etc/localtime", "Australia/", " UTC"] {
            assert!(serde_json::from_value::<Zone>(json!(text)).is_err(), "{text:?} was taken");
        }
    }

    #[test]
    fn every_day_has_its_place() {
        for (place, day) in ["mon", "tue", "wed", "thu", "fri", "sat", "sun"].into_iter().enumerate() {
            let form = serde_json::from_value(json!({"opens": "00:00", "closes": "24:00", "days": [day]})).unwrap();
            let (opens, closes, days) = business_hours(form, "").unwrap();
            assert_eq!((opens, closes), (0, 1_440));
            let working: Vec<usize> = (0..7).filter(|place| days[*place]).collect();
            assert_eq!(working, [place], "{day}");
        }
    }
}
