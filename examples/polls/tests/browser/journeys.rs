//! What people do.

use crate::driver::{Browser, DOWN, ENTER, Kind, TAB};
use crate::server::{ADMIN_PASSWORD, Server};

fn sign_in(browser: &Browser, server: &Server, name: &str, password: &str) {
    browser.open(&server.url("/admin/sign-in"));
    browser.fill("#name", name);
    browser.fill("#password", password);
    browser.click("main button");
    browser.wait_for("h1", "Portal");
}

fn assert_no_complaints(browser: &Browser) {
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn a_visitor_votes_and_another_one_sees_the_results_move() {
    let Some(watcher) = Browser::start(Kind::Desk) else {
        return;
    };
    let Some(voter) = Browser::start(Kind::Desk) else {
        return;
    };
    let server = Server::start();
    watcher.open(&server.url("/polls/1/results"));
    watcher.wait_for("#total", "72 votes");
    let width = "return document.querySelector('#bar-3').getBoundingClientRect().width";
    let before = watcher.run(width).as_f64().expect("a width");
    watcher.run("window.notLoadedAnew = true");

    voter.open(&server.url("/"));
    voter.picture("list");
    voter.click("a[aria-label='Vote: Where does your SQLite file live?']");
    voter.wait_for("h1", "Where does your SQLite file live?");
    voter.click("input[value='3']");
    voter.picture("vote");
    voter.click("main button");
    voter.wait_for("[role=status]", "Your vote was counted.");
    voter.wait_for("#total", "73 votes");
    voter.picture("results");

    watcher.wait_for("#total", "73 votes");
    watcher.wait_for("#count-3", "35");
    let grown = format!(
        "return ({}) > {before}",
        width.trim_start_matches("return ")
    );
    let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
    while watcher.run(&grown) != true {
        assert!(std::time::Instant::now() < end, "the bar has not grown");
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert_eq!(watcher.run("return window.notLoadedAnew"), true);
    assert_no_complaints(&watcher);
    assert_no_complaints(&voter);
}

#[test]
fn demo_looks_at_everything_and_is_refused_a_change() {
    let Some(browser) = Browser::start(Kind::Desk) else {
        return;
    };
    let server = Server::start();
    sign_in(&browser, &server, "demo", "djangoserverless");
    browser.picture("portal");
    browser.click("a[href='/admin/lock']");
    browser.wait_for("h1", "The write lock");
    browser.wait_for("#rows", "lock.released");
    browser.picture("lock");
    assert_no_complaints(&browser);
    browser.open(&server.url("/admin"));
    browser.click("form[action='/admin/polls/1/close'] button");
    browser.wait_for("[role=alert]", "may look at everything and change nothing");
    browser.open(&server.url("/polls/1"));
    browser.wait_for("main button", "Vote");
}

#[test]
fn the_administrator_asks_a_question_and_is_told_what_is_wrong_with_it() {
    let Some(browser) = Browser::start(Kind::Desk) else {
        return;
    };
    let server = Server::start();
    sign_in(&browser, &server, "admin", ADMIN_PASSWORD);
    browser.click("a[href='/admin/polls/new']");
    browser.fill("#question", "Tea or coffee?");
    browser.fill("#choices", "Tea");
    browser.click("main button");
    browser.wait_for("#choices-problem", "these are 1");
    browser.picture("problem");
    assert_eq!(
        browser.run("return document.querySelector('#question').value"),
        "Tea or coffee?"
    );
    browser.fill("#choices", "Tea\nCoffee");
    browser.click("main button");
    browser.wait_for("h1", "Tea or coffee?");
    assert!(browser.url().ends_with("/polls/4"), "{}", browser.url());
    assert_eq!(browser.text("fieldset"), "Your answer\nTea\nCoffee");
    browser.open(&server.url("/polls/4/history"));
    browser.wait_for("tbody", "created");
}

#[test]
fn a_keyboard_is_enough() {
    let Some(browser) = Browser::start(Kind::Desk) else {
        return;
    };
    let server = Server::start();
    browser.open(&server.url("/polls/1"));
    // The first stop is the link past the navigation, and it can be seen.
    browser.press(TAB);
    let skip = "return document.activeElement.className + document.activeElement.getBoundingClientRect().top";
    assert_eq!(browser.run(skip), "skip8");
    browser.press(ENTER);
    browser.press(TAB);
    assert_eq!(browser.run("return document.activeElement.name"), "choice");
    browser.press(DOWN);
    browser.press(DOWN);
    assert_eq!(
        browser.run("return document.querySelector(':checked').value"),
        "3"
    );
    let outline = "return getComputedStyle(document.activeElement).outlineStyle";
    assert_eq!(browser.run(outline), "solid", "the focus can be seen");
    browser.press(TAB);
    assert_eq!(
        browser.run("return document.activeElement.textContent"),
        "Vote"
    );
    browser.press(ENTER);
    browser.wait_for("[role=status]", "Your vote was counted.");
    browser.wait_for("#total", "73 votes");
}

#[test]
fn a_phone_shows_everything_without_scrolling_sideways() {
    let Some(browser) = Browser::start(Kind::Phone) else {
        return;
    };
    let server = Server::start();
    sign_in(&browser, &server, "demo", "djangoserverless");
    let pages = [
        "/",
        "/polls/1",
        "/polls/1/results",
        "/polls/1/history",
        "/admin",
        "/admin/polls/new",
        "/admin/polls/1",
        "/admin/lock",
    ];
    for path in pages {
        browser.open(&server.url(path));
        let widths = browser.run("return [document.documentElement.scrollWidth, innerWidth]");
        assert_eq!(widths, serde_json::json!([360, 360]), "{path}");
        let small = "return [...document.querySelectorAll('button, .button, .choice')]
            .filter(target => target.getBoundingClientRect().height < 44).map(target => target.outerHTML)";
        assert_eq!(
            browser.run(small),
            serde_json::json!([]),
            "{path}: too small for a thumb"
        );
    }
    browser.open(&server.url("/polls/1/results"));
    browser.picture("phone");
}

#[test]
fn without_script_votes_count_and_results_are_loaded_anew() {
    let Some(browser) = Browser::start(Kind::WithoutScript) else {
        return;
    };
    let Some(other) = Browser::start(Kind::WithoutScript) else {
        return;
    };
    let server = Server::start();
    browser.open(&server.url("/polls/2/results"));
    browser.wait_for("#total", "58 votes");
    other.open(&server.url("/polls/2"));
    other.click("fieldset label:last-of-type input");
    other.click("main button");
    other.wait_for("[role=status]", "Your vote was counted.");
    browser.wait_for("#total", "59 votes");
}
