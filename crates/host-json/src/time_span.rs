//! Time spans as .NET's `TimeSpan.Parse` reads them.

use std::time::Duration;

/// Reads a time span as .NET's `TimeSpan.Parse` does, without the sign.
///
/// `hh:mm`, `hh:mm:ss`, `hh:mm:ss.fffffff`, `d.hh:mm:ss`, `d:hh:mm:ss` and a bare `d`, which is *days*.
/// Three numbers whose first is above 23 are `d:hh:mm`: the documented surprise that `24:00:00` is 24 days.
/// Left out is `hh:mm:.f`, which .NET still reads for old programs.
pub fn time_span(text: &str) -> Option<Duration> {
    let text = text.trim();
    let (days, clock) = match text.split_once('.') {
        Some((days, clock)) if !days.contains(':') => (Some(digits(days, u32::MAX)?), clock),
        _ => (None, text),
    };
    let (clock, ticks) = match clock.split_once('.') {
        Some((clock, fraction)) => (clock, Some(fraction_ticks(fraction)?)),
        None => (clock, None),
    };
    let parts: Vec<&str> = clock.split(':').collect();
    let (days, hours, minutes, seconds) = match (days, &parts[..]) {
        (None, [days]) => (digits(days, u32::MAX)?, 0, 0, 0),
        (days, [hours, minutes]) => (days.unwrap_or(0), digits(hours, 23)?, digits(minutes, 59)?, 0),
        (None, [days, hours, minutes]) if ticks.is_none() && digits(days, u32::MAX)? > 23 => {
            (digits(days, u32::MAX)?, digits(hours, 23)?, digits(minutes, 59)?, 0)
        }
        (days, [hours, minutes, seconds]) => (days.unwrap_or(0), digits(hours, 23)?, digits(minutes, 59)?, digits(seconds, 59)?),
        (None, [days, hours, minutes, seconds]) => {
            (digits(days, u32::MAX)?, digits(hours, 23)?, digits(minutes, 59)?, digits(seconds, 59)?)
        }
        _ => return None,
    };
    if ticks.is_some() && parts.len() < 3 {
        return None;
    }
    let seconds = u64::from(days) * 86_400 + u64::from(hours) * 3_600 + u64::from(minutes) * 60 + u64::from(seconds);
    let ticks = ticks.unwrap_or(0);
    // A `TimeSpan` is an `i64` of ticks.
    let all = seconds.checked_mul(TICKS_PER_SECOND)?.checked_add(ticks.into())?;
    i64::try_from(all).ok().map(|_| Duration::new(seconds, ticks * NANOSECONDS_PER_TICK))
}

const TICKS_PER_SECOND: u64 = 10_000_000;
const NANOSECONDS_PER_TICK: u32 = 100;
/// Digits after the point that are whole ticks.
const TICK_DIGITS: u32 = 7;
/// The largest number that .NET's reader holds, leading zeros aside.
const MAX_NUMBER: u32 = 0x0FFF_FFFF;

fn digits(text: &str, max: u32) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|value| plain && *value <= max)
}

/// Digits after the point. More than seven are rounded, and then the first must be a zero (`NormalizeAndValidateFraction` in
/// .NET's `TimeSpanParse.cs`).
fn fraction_ticks(text: &str) -> Option<u32> {
    let significant = text.trim_start_matches('0');
    if significant.is_empty() && !text.is_empty() {
        return Some(0);
    }
    let number = digits(significant, MAX_NUMBER)?;
    let length = u32::try_from(text.len()).ok()?;
    if length <= TICK_DIGITS {
        return Some(number * 10_u32.pow(TICK_DIGITS - length));
    }
    if significant.len() == text.len() {
        return None;
    }
    // With that number of zeros before it, a digit is below one tick.
    let divisor = 10_u32.checked_pow(length - TICK_DIGITS);
    Some(divisor.map_or(0, |divisor| (number + divisor / 2) / divisor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_span_reads_as_dotnet_reads_it() {
        for (text, expected) in [
            ("00:05:00", Some(Duration::from_mins(5))),
            ("00:00:00.5", Some(Duration::from_millis(500))),
            ("00:00:01.0000001", Some(Duration::new(1, 100))),
            ("00:00:01.9999999", Some(Duration::new(1, 999_999_900))),
            ("00:00:01.99999999", None),
            ("00:00:01.000000000000", Some(Duration::new(1, 0))),
            ("00:00:01.00000004", Some(Duration::new(1, 0))),
            ("00:00:01.00000005", Some(Duration::new(1, 100))),
            ("00:00:01.099999999", Some(Duration::new(1, 100_000_000))),
            ("00:00:01.0268435455", Some(Duration::new(1, 26_843_500))),
            ("00:00:01.0268435456", None),
            ("00:00:01.00000000000000000009", Some(Duration::new(1, 0))),
            ("1.02:03:04", Some(Duration::from_secs(93_784))),
            ("1:02:03:04", Some(Duration::from_secs(93_784))),
            ("1.02:03:04.25", Some(Duration::from_millis(93_784_250))),
            ("01:30", Some(Duration::from_mins(90))),
            ("2", Some(Duration::from_hours(48))),
            ("24:00:00", Some(Duration::from_hours(24 * 24))),
            ("24:00:00.5", None),
            ("5m", None),
            ("", None),
            ("00:60:00", None),
            ("00:00:60", None),
            ("+1:00:00", None),
            ("1.5", None),
            ("1.2:3.5", None),
            ("00:00:00.", None),
            ("10675199.02:48:05.4775807", Some(Duration::new(922_337_203_685, 477_580_700))),
            ("10675199.02:48:05.4775808", None),
            ("10675199.02:48:06", None),
            ("99999999", None),
        ] {
            assert_eq!(time_span(text), expected, "{text}");
        }
    }
}
