//! The pages in a real browser: headless Chromium, driven by chromedriver (Debian: chromium-driver).
//!
//! Where there is no chromedriver the tests say so and pass. With `EFS_TESTS_SCREENSHOTS=<directory>`, an
//! absolute path, they leave pictures there.

mod driver;
mod journeys;
mod server;
