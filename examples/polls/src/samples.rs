//! Polls to look at, in a database that has none.

use diesel::prelude::*;
use diesel_sqlite_efs::EfsSqliteConnection;

use crate::polls::{self, Draft};
use crate::schema::{choice, vote};

/// Who did it, in the history.
const ACTOR: &str = "sample data";

/// Questions, and their choices with the votes each begins with.
const SAMPLES: [(&str, &[(&str, i32)]); 3] = [
    (
        "Where does your SQLite file live?",
        &[
            ("On a laptop", 12),
            ("On a server's disk", 21),
            ("On Amazon EFS", 34),
            ("In memory only", 5),
        ],
    ),
    (
        "How many processes write it at once?",
        &[("One", 18), ("A few", 13), ("As many as Lambda starts", 27)],
    ),
    (
        "Tabs or spaces?",
        &[("Tabs", 8), ("Spaces", 11), ("Whatever rustfmt says", 43)],
    ),
];

/// The last of them is closed, so that there is one to look at.
const CLOSED: usize = 2;

/// Inserts them, unless somebody has been faster, in one transaction for each.
pub(crate) fn insert_if_empty(conn: &mut EfsSqliteConnection) -> QueryResult<()> {
    conn.with_write_lock(|conn| {
        if polls::any(conn)? {
            return Ok(());
        }
        for (index, (question, choices)) in SAMPLES.into_iter().enumerate() {
            let draft = Draft {
                question: question.to_owned(),
                choices: choices.iter().map(|(text, _)| (*text).to_owned()).collect(),
                closes_at: None,
            };
            let created = polls::create(conn, &draft, ACTOR)?;
            let id = created.ok_or(diesel::result::Error::NotFound)?;
            conn.immediate_transaction(|conn| cast(conn, id, choices))?;
            if index == CLOSED {
                polls::set_open(conn, id, false, ACTOR)?;
            }
        }
        Ok(())
    })
}

fn cast(conn: &mut EfsSqliteConnection, id: i32, choices: &[(&str, i32)]) -> QueryResult<()> {
    for (text, votes) in choices {
        let row = choice::table
            .filter(choice::question_id.eq(id))
            .filter(choice::text.eq(text));
        let choice_id: i32 = row.select(choice::id).first(conn)?;
        for number in 0..*votes {
            let key = format!("sample-{choice_id}-{number}");
            diesel::insert_into(vote::table)
                .values((vote::choice_id.eq(choice_id), vote::idempotency_key.eq(key)))
                .execute(conn)?;
        }
        diesel::update(choice::table.find(choice_id))
            .set(choice::votes.eq(votes))
            .execute(conn)?;
    }
    Ok(())
}
