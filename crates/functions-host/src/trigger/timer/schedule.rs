//! Schedule of a timer trigger: an NCRONTAB expression or a fixed period.
//!
//! The host hands the text to `NCrontab` first and to `TimeSpan.TryParse` second
//! (`TimerSchedule.cs` and `CronSchedule.cs` of azure-webjobs-sdk-extensions), so this reads both in that order.
//! NCRONTAB is not Vixie cron: day of month and day of week must *both* match, Sunday is only `0`, a range
//! written backwards is turned round, and there is no `L`, `W`, `#` or `?`.
//! General cron crates differ in each of these, which is why the fields are read here.

use std::time::Duration;

use host_json::time_span::time_span;
use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

/// Schedule of a timer trigger, in UTC.
///
/// The host uses UTC unless `WEBSITE_TIME_ZONE` is set, which this host does not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Cron(Cron),
    Every(Duration),
}

/// One set of allowed values for each field; bit `n` is the value `n`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cron {
    seconds: u64,
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
}

impl Schedule {
    /// Reads the `schedule` of a `timerTrigger`, its `%Setting%` already replaced.
    ///
    /// Six fields are `{second} {minute} {hour} {day} {month} {day-of-week}`; with five the second is 0.
    /// Anything else must be a time span such as `00:05:00`, and then the timer fires once in each such period.
    /// The error is one sentence that names the field and the value at fault.
    pub fn parse(text: &str) -> Result<Schedule, String> {
        let fields: Vec<&str> = text.split_whitespace().collect();
        match fields[..] {
            [minute, hour, day, month, weekday] => cron(["0", minute, hour, day, month, weekday]),
            [second, minute, hour, day, month, weekday] => cron([second, minute, hour, day, month, weekday]),
            _ => match time_span(text) {
                Some(period) if period.is_zero() => Err("a period must be longer than 00:00:00".to_owned()),
                Some(period) => Ok(Kind::Every(period)),
                None => Err("it is neither six NCRONTAB fields such as 0 */5 * * * * nor a time span such as 00:05:00".to_owned()),
            },
        }
        .map(Schedule)
        .map_err(|reason| format!("\"{text}\" is not a schedule: {reason}"))
    }

    /// First time strictly after `after` at which the timer fires.
    ///
    /// `None` when there is none, as for 30 February.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match &self.0 {
            Kind::Cron(cron) => cron.next(after),
            Kind::Every(period) => after.checked_add(*period).ok(),
        }
    }

    /// Whether the timer can fire more than once in a minute.
    ///
    /// The host then keeps no schedule status, whatever `useMonitor` says (`TimerSchedule.cs`).
    /// The host counts the occurrences in the minute after its start; this function checks the seconds field instead,
    /// so that the answer does not depend on the time of the call.
    pub fn is_sub_minute(&self) -> bool {
        match &self.0 {
            Kind::Cron(cron) => cron.seconds.count_ones() > 1,
            Kind::Every(period) => *period < Duration::from_mins(1),
        }
    }
}

/// Days after which the Gregorian calendar, including weekdays, repeats: a day not found by then never comes.
const CALENDAR_CYCLE_DAYS: usize = 146_097;

impl Cron {
    fn next(&self, after: Timestamp) -> Option<Timestamp> {
        // Whole seconds are cut towards 1970: before it, a fraction leaves them already later than `after`.
        let second = after.as_second() + i64::from(after.subsec_nanosecond() >= 0);
        let earliest = Timestamp::from_second(second).ok()?;
        let start = TimeZone::UTC.to_datetime(earliest);
        let mut date = start.date();
        for day in 0..CALENDAR_CYCLE_DAYS {
            let weekday = date.weekday().to_sunday_zero_offset();
            if has(self.months, date.month()) && has(self.days, date.day()) && has(self.weekdays, weekday) {
                let from = if day == 0 { (start.hour(), start.minute(), start.second()) } else { (0, 0, 0) };
                if let Some((hour, minute, second)) = self.time_from(from) {
                    let next = DateTime::from_parts(date, jiff::civil::time(hour, minute, second, 0));
                    return TimeZone::UTC.to_timestamp(next).ok();
                }
            }
            date = date.tomorrow().ok()?;
        }
        None
    }

    /// The first time of day at or after `from`, as (hour, minute, second).
    fn time_from(&self, from: (i8, i8, i8)) -> Option<(i8, i8, i8)> {
        for hour in (from.0..24).filter(|hour| has(self.hours, *hour)) {
            let first_minute = if hour == from.0 { from.1 } else { 0 };
            for minute in (first_minute..60).filter(|minute| has(self.minutes, *minute)) {
                let first_second = if (hour, minute) == (from.0, from.1) { from.2 } else { 0 };
                if let Some(second) = (first_second..60).find(|second| has(self.seconds, *second)) {
                    return Some((hour, minute, second));
                }
            }
        }
        None
    }
}

fn has(field: u64, value: i8) -> bool {
    field & (1 << value) != 0
}

/// The noun, smallest value, largest value and names of one field (`CrontabFieldImpl.cs` of `NCrontab`).
struct Field {
    noun: &'static str,
    min: u32,
    max: u32,
    names: &'static [&'static str],
}

const FIELDS: [Field; 6] = [
    Field { noun: "second", min: 0, max: 59, names: &[] },
    Field { noun: "minute", min: 0, max: 59, names: &[] },
    Field { noun: "hour", min: 0, max: 23, names: &[] },
    Field { noun: "day of month", min: 1, max: 31, names: &[] },
    Field {
        noun: "month",
        min: 1,
        max: 12,
        names: &["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"],
    },
    Field { noun: "day of week", min: 0, max: 6, names: &["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"] },
];

fn cron(texts: [&str; 6]) -> Result<Kind, String> {
    let mut fields = [0; 6];
    for ((field, text), values) in FIELDS.iter().zip(texts).zip(&mut fields) {
        *values = field.parse(text)?;
    }
    let [seconds, minutes, hours, days, months, weekdays] = fields;
    Ok(Kind::Cron(Cron { seconds, minutes, hours, days, months, weekdays }))
}

impl Field {
    fn parse(&self, text: &str) -> Result<u64, String> {
        text.split(',').try_fold(0, |values, item| Ok(values | self.item(item)?))
    }

    /// One item of a list: `*`, `5`, `1-5`, each with an optional `/step`.
    fn item(&self, text: &str) -> Result<u64, String> {
        let (range, step) = match text.split_once('/') {
            None => (text, None),
            Some((range, step)) => {
                let count: usize = step.parse().map_err(|_| format!("{} step \"{step}\" is not a number", self.noun))?;
                // NCrontab reads a step of 0 as 1.
                (range, Some(count.max(1)))
            }
        };
        let (first, last) = if range == "*" {
            (self.min, self.max)
        } else if let Some((first, last)) = range.split_once('-') {
            let (first, last) = (self.value(first)?, self.value(last)?);
            (first.min(last), first.max(last))
        } else {
            let value = self.value(range)?;
            (value, if step.is_some() { self.max } else { value })
        };
        Ok((first..=last).step_by(step.unwrap_or(1)).fold(0, |values, value| values | 1 << value))
    }

    /// A number or the beginning of a name: `1`, `Mon` and `monday` are the same day.
    fn value(&self, text: &str) -> Result<u32, String> {
        let (noun, min, max) = (self.noun, self.min, self.max);
        let lower = text.to_ascii_lowercase();
        let named = (min..=max).zip(self.names).find(|(_, name)| !lower.is_empty() && name.starts_with(&lower));
        let value = match named {
            Some((value, _)) => value,
            None => text.parse().map_err(|_| format!("{noun} \"{text}\" is not a value from {min} to {max}"))?,
        };
        if (min..=max).contains(&value) { Ok(value) } else { Err(format!("{noun} {value} is not a value from {min} to {max}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(expression: &str, after: &str) -> Option<String> {
        let schedule = Schedule::parse(expression).unwrap();
        schedule.next(after.parse().unwrap()).map(|time| time.to_string())
    }

    #[test]
    fn an_expression_fires_when_ncrontab_fires() {
        // 2026-11-23 is a Monday.
        for (expression, after, expected) in [
            ("0 */5 * * * *", "2026-11-23T10:02:30Z", "2026-11-23T10:05:00Z"),
            ("0 */5 * * * *", "2026-11-23T10:05:00Z", "2026-11-23T10:10:00Z"),
            ("0 */5 * * * *", "2026-11-23T10:04:59.999Z", "2026-11-23T10:05:00Z"),
            ("0 */5 * * * *", "2026-12-31T23:57:00Z", "2027-01-01T00:00:00Z"),
            ("0 0 * * * *", "2026-11-23T10:00:01Z", "2026-11-23T11:00:00Z"),
            ("0 0 */2 * * *", "2026-11-23T10:00:00Z", "2026-11-23T12:00:00Z"),
            ("0 0 */2 * * *", "2026-11-23T23:00:00Z", "2026-11-24T00:00:00Z"),
            ("0 0 9-17 * * *", "2026-11-23T17:00:00Z", "2026-11-24T09:00:00Z"),
            ("0 0 9-17 * * *", "2026-11-23T08:59:59Z", "2026-11-23T09:00:00Z"),
            ("0 30 9 * * *", "2026-11-23T09:30:00Z", "2026-11-24T09:30:00Z"),
            ("0 30 9 * * 1-5", "2026-11-27T09:30:00Z", "2026-11-30T09:30:00Z"),
            ("0 30 9 * * Mon-Fri", "2026-11-27T09:30:00Z", "2026-11-30T09:30:00Z"),
            ("0 30 9 * Jan Mon", "2026-11-23T00:00:00Z", "2027-01-04T09:30:00Z"),
            ("0 30 9 * january MONDAY", "2027-01-25T09:30:00Z", "2028-01-03T09:30:00Z"),
            ("*/15 * * * * *", "2026-11-23T10:00:50Z", "2026-11-23T10:01:00Z"),
            ("5/20 * * * * *", "2026-11-23T10:00:05Z", "2026-11-23T10:00:25Z"),
            ("0 10-30/10,45 * * * *", "2026-11-23T10:30:00Z", "2026-11-23T10:45:00Z"),
            ("0 0 0 29 2 *", "2026-11-23T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("0 0 0 * * 0", "2026-11-23T00:00:00Z", "2026-11-29T00:00:00Z"),
        ] {
            assert_eq!(next(expression, after).as_deref(), Some(expected), "{expression} after {after}");
        }
    }

    #[test]
    fn day_of_month_and_day_of_week_must_both_match() {
        assert_eq!(next("0 0 0 13 * 5", "2026-11-23T00:00:00Z").as_deref(), Some("2027-08-13T00:00:00Z"));
    }

    #[test]
    fn a_range_written_backwards_is_turned_round() {
        assert_eq!(next("0 0 17-9 * * *", "2026-11-23T18:00:00Z").as_deref(), Some("2026-11-24T09:00:00Z"));
    }

    #[test]
    fn five_fields_fire_at_second_zero() {
        assert_eq!(next("*/5 * * * *", "2026-11-23T10:02:30Z").as_deref(), Some("2026-11-23T10:05:00Z"));
    }

    #[test]
    fn a_day_that_never_comes_has_no_next_time() {
        assert_eq!(next("0 0 0 30 2 *", "2026-11-23T00:00:00Z"), None);
    }

    #[test]
    fn a_time_before_1970_with_a_fraction_is_rounded_the_right_way() {
        assert_eq!(next("* * * * * *", "1969-12-31T23:59:58.5Z").as_deref(), Some("1969-12-31T23:59:59Z"));
    }

    #[test]
    fn a_period_fires_one_period_later() {
        assert_eq!(next("00:00:30", "2026-11-23T10:00:05Z").as_deref(), Some("2026-11-23T10:00:35Z"));
        assert_eq!(next("1.00:00:00", "2026-11-23T10:00:05Z").as_deref(), Some("2026-11-24T10:00:05Z"));
    }

    #[test]
    fn a_refused_expression_has_a_reason() {
        for (expression, reason) in [
            ("0 60 * * * *", "minute 60 is not a value from 0 to 59"),
            ("0 0 0 * * 7", "day of week 7 is not a value from 0 to 6"),
            ("0 0 0 0 * *", "day of month 0 is not a value from 1 to 31"),
            ("0 0 0 L * *", "day of month \"L\" is not a value from 1 to 31"),
            ("0 1,,2 * * * *", "minute \"\" is not a value from 0 to 59"),
            ("0 */x * * * *", "minute step \"x\" is not a number"),
            ("00:00:00", "a period must be longer than 00:00:00"),
            ("hourly", "it is neither six NCRONTAB fields such as 0 */5 * * * * nor a time span such as 00:05:00"),
        ] {
            let error = Schedule::parse(expression).unwrap_err();
            assert_eq!(error, format!("\"{expression}\" is not a schedule: {reason}"));
        }
    }

    #[test]
    fn only_a_schedule_with_several_runs_a_minute_is_sub_minute() {
        for (expression, expected) in [("*/30 * * * * *", true), ("0 * * * * *", false), ("00:00:59", true), ("00:01:00", false)] {
            assert_eq!(Schedule::parse(expression).unwrap().is_sub_minute(), expected, "{expression}");
        }
    }
}
