//! The application as its clients see it: requests in, responses out, on a database of its own.

mod api;
mod pages;
mod portal;
mod support;
