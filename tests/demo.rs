//! The demonstration as somebody runs it: it ends well, and the same seed gives the same books.

#![allow(clippy::expect_used, clippy::panic)]

use assert_cmd::Command;

/// Everything printed, without the one line that depends on the machine and the periodic ones.
fn demo(seed: &str) -> Vec<String> {
    let output = Command::cargo_bin("remedyd")
        .expect("binary")
        .args(["demo", "--seed", seed, "--tenants", "12"])
        .timeout(std::time::Duration::from_secs(180))
        .assert()
        .success()
        .stderr("")
        .get_output()
        .stdout
        .clone();
    let text = String::from_utf8(output).expect("UTF-8");
    text.lines().filter(|line| !line.starts_with("  took") && !line.contains("events/s")).map(str::to_owned).collect()
}

#[test]
fn the_same_seed_gives_the_same_books_and_they_balance() {
    let first = demo("3");
    assert_eq!(first.last().map(String::as_str), Some("OK"));
    assert_eq!(first, demo("3"));
    let other = demo("4");
    assert_ne!(first, other);
    for books in [&first, &other] {
        let balance = books.iter().find(|line| line.starts_with("  balance")).expect("a balance");
        let (events_in, sum) = balance.split_once(" events in = ").expect("balanced");
        let figures = |text: &str| -> Vec<u64> {
            let text = text.replace(',', "");
            text.split(' ').filter_map(|word| word.parse().ok()).collect()
        };
        assert_eq!(figures(events_in), [figures(sum).iter().sum::<u64>()]);
        assert_eq!(figures(sum).len(), 4, "{balance}");
    }
}

#[test]
fn the_story_is_told_from_the_published_events() {
    let story = demo("3");
    let mut lines = story.iter();
    // in this order, with anything between
    for told in [
        "> the SOC reports: HIGH - Incident on AMA-LAPTOP-04",
        "triage: HIGH - act within the hour, by 10:00:00; malware persistence (scheduled task, file) on AMA-LAPTOP-04; plan: both; not isolated; next: review plan",
        "REFUSED to close the report, 4 in the way:",
        "REFUSED remediations.approved (role_not_allowed)",
        "#1 Delete Scheduled Task: DONE on attempt 1 of 5, after 1 try",
        "#2 Quarantine File: attempt 1 of 5: file_in_use after 3 tries; next attempt at 09:18:47",
        "#3 Rotate the local administrator password: done by hand",
        "#2 Quarantine File: task_pending, attempt 1 of 5, file_in_use, next try 09:18:47; cleared by",
        "#2 Quarantine File: DONE on attempt 2 of 5, after 2 tries",
        "nothing is in the way of the refused resolution any more",
        "the report is CLOSED (resolved) by Security engineer on duty (security_engineer): 4 completed, 0 failed, 0 cancelled; no foothold left",
        "#4 Ask the user what was downloaded that day: counts as acknowledged",
    ] {
        assert!(lines.any(|line| line.contains(told)), "not told, or not in this place: {told}");
    }
}
