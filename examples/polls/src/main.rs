//! The program: as a function where the Lambda Runtime API is, else as a server on a loopback port.

use std::env;
use std::error::Error;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use polls::{App, LockLog, Settings, app};
use tokio::net::TcpListener;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::prelude::*;

/// Where the server listens unless `PORT` says otherwise; on a free port if that one is taken.
const PORT: u16 = 8080;

type Failure = Box<dyn Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => serve(),
        ["hash-password"] => hash_password(),
        _ => Err(
            "usage: polls, or polls hash-password < FILE; see README.md for the environment".into(),
        ),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("polls: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

/// The initialisation phase, and then one request after another.
fn serve() -> Result<(), Failure> {
    let on_lambda = env::var_os("AWS_LAMBDA_RUNTIME_API").is_some();
    let lock_log = LockLog::default();
    log_to_stderr(&lock_log, on_lambda)?;
    let settings = Settings::from_env(on_lambda)?;
    let polls = App::start(&settings, lock_log)?;
    // Only where writes are to be expected: a function behind GET routes alone would pay for it in vain.
    if settings.warm_up
        && let Err(error) = polls.warm_up()
    {
        // Pages can be read all the same.
        tracing::error!(error = with_causes(&error), "nothing can be written");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    if on_lambda {
        return runtime.block_on(lambda_http::run(app(polls)));
    }
    runtime.block_on(async {
        let listener = listen().await?;
        println!("listening on http://{}", listener.local_addr()?);
        let service = app(polls).into_make_service_with_connect_info::<SocketAddr>();
        Ok(axum::serve(listener, service).await?)
    })
}

async fn listen() -> Result<TcpListener, Failure> {
    let on = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    match env::var("PORT") {
        Ok(port) => {
            let port = port
                .parse()
                .map_err(|_| format!("PORT={port} is not a port"))?;
            let listener = on(port).await;
            Ok(listener.map_err(|error| format!("cannot listen on port {port}: {error}"))?)
        }
        Err(_) => match on(PORT).await {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => Ok(on(0).await?),
            listener => Ok(listener?),
        },
    }
}

/// What the application has to say goes to the log, what the lock does to the portal's page as well.
fn log_to_stderr(lock_log: &LockLog, on_lambda: bool) -> Result<(), Failure> {
    let targets: Targets = match env::var("RUST_LOG") {
        Ok(targets) => targets
            .parse()
            .map_err(|error| format!("RUST_LOG: {error}"))?,
        Err(_) => Targets::new()
            .with_default(Level::WARN)
            .with_target("polls", Level::INFO),
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(io::stderr);
    // Lambda puts the time before each line itself.
    let lines = if on_lambda {
        lines.without_time().boxed()
    } else {
        lines.boxed()
    };
    tracing_subscriber::registry()
        .with(lines.with_filter(targets))
        .with(lock_log.layer())
        .try_init()?;
    Ok(())
}

/// Reads a password and prints what `POLLS_ADMIN_PASSWORD` may hold instead of it.
fn hash_password() -> Result<(), Failure> {
    let mut password = String::new();
    io::stdin().read_to_string(&mut password)?;
    let password = password.strip_suffix('\n').unwrap_or(&password);
    if password.is_empty() {
        return Err("no password on standard input".into());
    }
    println!("{}", polls::hash_password(password)?);
    Ok(())
}

/// An error and what caused it, on one line.
fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
