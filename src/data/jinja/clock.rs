//! Dates for templates that write today's.

/// Seconds since 1970: the clock's, or `SOURCE_DATE_EPOCH` where that is set, so that a run can be repeated exactly with
/// templates that write today's date.
pub fn now() -> i64 {
    let clock = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    crate::env::settings().source_date_epoch.unwrap_or_else(clock)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// `strftime` in UTC for the directives that name a date or a time; others stay as they are.
pub fn strftime(seconds: i64, format: &str) -> String {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let month_name = MONTHS[month as usize - 1];
    let day_name = DAYS[days.rem_euclid(7) as usize];
    let hour = second / 3600;
    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('Y') => out += &year.to_string(),
            Some('y') => out += &format!("{:02}", year.rem_euclid(100)),
            Some('m') => out += &format!("{month:02}"),
            Some('d') => out += &format!("{day:02}"),
            Some('e') => out += &format!("{day:2}"),
            Some('j') => out += &format!("{:03}", days - since_epoch(year) + 1),
            Some('B') => out += month_name,
            Some('b' | 'h') => out += &month_name[..3],
            Some('A') => out += day_name,
            Some('a') => out += &day_name[..3],
            Some('H') => out += &format!("{hour:02}"),
            Some('I') => out += &format!("{:02}", (hour + 11) % 12 + 1),
            Some('p') => out += if hour < 12 { "AM" } else { "PM" },
            Some('M') => out += &format!("{:02}", second / 60 % 60),
            Some('S') => out += &format!("{:02}", second % 60),
            Some('F') => out += &format!("{year}-{month:02}-{day:02}"),
            Some('%') => out.push('%'),
            Some(other) => out.extend(['%', other]),
            None => out.push('%'),
        }
    }
    out
}

/// Days from 1970-01-01 to the first day of `year`.
fn since_epoch(year: i64) -> i64 {
    let y = year - 1;
    365 * (year - 1970) + (y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400)) - 477
}

/// Year, month and day (both from 1) of a number of days since 1970-01-01.
fn civil(days: i64) -> (i64, i64, i64) {
    let mut year = 1970 + days.div_euclid(366);
    while since_epoch(year + 1) <= days {
        year += 1;
    }
    let leap = i64::from(since_epoch(year + 1) - since_epoch(year) == 366);
    let mut day = days - since_epoch(year);
    let lengths = [31, 28 + leap, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    for (month, length) in (1..).zip(lengths) {
        if day < length {
            return (year, month, day + 1);
        }
        day -= length;
    }
    (year, 12, 31) // ok: the lengths add up to the year's
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_pythons() {
        // python3 -c 'import datetime as d; print(d.datetime.fromtimestamp(S, d.UTC).strftime(F))'
        let f = "%d %b %Y %y %m %B %A %a %H:%M:%S %j %I%p %% %F";
        for (s, want) in [
            (0, "01 Jan 1970 70 01 January Thursday Thu 00:00:00 001 12AM % 1970-01-01"),
            (951_782_399, "28 Feb 2000 00 02 February Monday Mon 23:59:59 059 11PM % 2000-02-28"),
            (1_709_208_000, "29 Feb 2024 24 02 February Thursday Thu 12:00:00 060 12PM % 2024-02-29"),
            (1_767_225_599, "31 Dec 2025 25 12 December Wednesday Wed 23:59:59 365 11PM % 2025-12-31"),
            (4_107_542_400, "01 Mar 2100 00 03 March Monday Mon 00:00:00 060 12AM % 2100-03-01"),
        ] {
            assert_eq!(strftime(s, f), want);
        }
    }
}
