//! A connection and its main file, which find each other while the connection is opened.

use std::cell::{Cell, RefCell};
use std::ptr::NonNull;

use diesel::Connection as _;
use diesel::result::ConnectionResult;
use diesel::sqlite::SqliteConnection;
use libsqlite3_sys as ffi;

use super::callbacks;
use crate::vfs::open_params::OpenParams;

thread_local! {
    /// Set while a connection is being opened on this thread: its main file takes it.
    static PARAMS: RefCell<Option<OpenParams>> = const { RefCell::new(None) };
    /// The connection whose main file has taken it, once SQLite has named it.
    static OPENED: Cell<Option<NonNull<ffi::sqlite3>>> = const { Cell::new(None) };
}

/// The connection that an open file belongs to.
pub(in crate::vfs) struct Connection(NonNull<ffi::sqlite3>);

impl Connection {
    /// `None` if there is none.
    ///
    /// # Safety
    /// The connection is open as long as the value exists, and the value is used only in calls that
    /// the connection alone makes.
    pub(super) unsafe fn of_file(connection: *mut ffi::sqlite3) -> Option<Self> {
        let connection = NonNull::new(connection);
        OPENED.set(connection);
        connection.map(Self)
    }

    /// Whether it has a transaction open that has read.
    pub(in crate::vfs) fn has_read(&self) -> bool {
        // SAFETY: the connection is the caller, so it is open and this thread holds its mutex.
        let state = unsafe { ffi::sqlite3_txn_state(self.0.as_ptr(), c"main".as_ptr()) };
        state != ffi::SQLITE_TXN_NONE
    }
}

/// The parameters of the main file that is being opened on this thread.
pub(super) fn take_params() -> Option<OpenParams> {
    PARAMS.take()
}

/// Opens Diesel's connection with a main file governed by `params`, and installs the callbacks.
/// `None`: the main file was not opened through the shim, and must not be used.
pub(in crate::vfs) fn open(
    params: OpenParams,
    uri: &str,
) -> ConnectionResult<Option<SqliteConnection>> {
    /// Disarms the thread on every return.
    struct Armed;
    impl Drop for Armed {
        fn drop(&mut self) {
            PARAMS.take();
            OPENED.take();
        }
    }
    let lock = params.lock.clone();
    PARAMS.set(Some(params));
    OPENED.set(None);
    let armed = Armed;
    let connection = SqliteConnection::establish(uri)?;
    let database = OPENED.take();
    drop(armed);
    let Some(database) = database else {
        return Ok(None);
    };
    // SAFETY: only a main file that has taken the params reports its connection, and that was
    // opened for `connection`, which is open and in this thread's hands.
    let installed = unsafe { callbacks::install(database, lock) };
    Ok(installed.then_some(connection))
}
