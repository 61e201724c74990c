//! A DynamoDB emulator on a loopback port that keeps its data in memory and never outlives its
//! parent.
//!
//! `dynamodb-emulator [--port N]` prints `listening on http://127.0.0.1:PORT` once it accepts
//! requests, and ends when its standard input is closed, which happens however the parent ends.
//! SIGTERM ends it as well: it has nothing to save, so the default action is right.

use std::error::Error;
use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::process::{self, ExitCode};
use std::thread;

use dynoxide::Database;
use tokio::net::TcpListener;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dynamodb-emulator: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let port = port_from_arguments()?;
    let database = Database::memory()?;
    thread::Builder::new()
        .name("stdin".to_owned())
        .spawn(end_with_standard_input)?;
    // One thread serves all: requests are short, and the database takes one at a time anyway.
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(serve(port, database))
}

async fn serve(port: u16, database: Database) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|error| format!("cannot listen on 127.0.0.1:{port}: {error}"))?;
    // The socket queues connections from here on, so the line below is true when it is read.
    writeln!(
        io::stdout(),
        "listening on http://{}",
        listener.local_addr()?
    )?;
    dynoxide::server::serve_on(listener, database).await;
    Ok(())
}

/// The port to listen on; 0, which lets the system choose, if none is given.
fn port_from_arguments() -> Result<u16, String> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Ok(0),
        ["--port", port] => port
            .parse()
            .map_err(|error| format!("`--port {port}`: {error}")),
        _ => Err("usage: dynamodb-emulator [--port N]".to_owned()),
    }
}

/// Waits until nobody can write to standard input any more, then ends the process.
fn end_with_standard_input() {
    let mut ignored = [0; 256];
    loop {
        match io::stdin().read(&mut ignored) {
            Ok(0) => process::exit(0),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => process::exit(1),
        }
    }
}
