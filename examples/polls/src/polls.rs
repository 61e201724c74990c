//! Polls, their votes and their history, and the statements that read and write them.

use std::collections::HashMap;

use diesel::dsl::{exists, select, sql};
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Text};
use diesel_sqlite_efs::EfsSqliteConnection;

use crate::schema::{choice, history, question, vote};

/// How many entries the pages of history show.
const NEWEST: i64 = 50;

/// A poll, with its choices and how they stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Poll {
    pub(crate) id: i32,
    pub(crate) question: String,
    /// UTC, `YYYY-MM-DD HH:MM:SS`.
    pub(crate) published_at: String,
    pub(crate) closes_at: Option<String>,
    pub(crate) open: bool,
    pub(crate) votes: i64,
    pub(crate) choices: Vec<Choice>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub(crate) id: i32,
    pub(crate) text: String,
    pub(crate) votes: i32,
    /// Of all votes, rounded to a tenth of a percent.
    pub(crate) permille: i64,
}

impl Choice {
    /// For people: `41.7`.
    pub(crate) fn percent(&self) -> String {
        format!("{}.{}", self.permille / 10, self.permille % 10)
    }
}

/// What came of a vote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Cast {
    Counted(Poll),
    /// The same key was counted before, for the same choice.
    CountedBefore(Poll),
    NoSuchPoll,
    NoSuchChoice,
    Closed,
    /// The key was counted before, for another choice.
    KeyReused,
}

/// What an administrator asks for; validated by the form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) question: String,
    /// Two or more, no two alike.
    pub(crate) choices: Vec<String>,
    /// UTC, `YYYY-MM-DD HH:MM:SS`.
    pub(crate) closes_at: Option<String>,
}

/// What came of an administrator's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Changed {
    Done,
    /// It was so already.
    Nothing,
    NoSuchPoll,
    /// A poll that has been voted on keeps its choices: votes must not change their meaning.
    HasVotes,
    /// A poll cannot be closed in the past; that is what the button is for.
    ClosesTooEarly,
}

/// A poll and what became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct History {
    pub(crate) poll: Poll,
    /// The newest first.
    pub(crate) entries: Vec<Entry>,
    pub(crate) days: Vec<Day>,
}

/// One entry of a poll's history.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = history)]
pub(crate) struct Entry {
    pub(crate) happened_at: String,
    pub(crate) actor: String,
    pub(crate) action: String,
    pub(crate) detail: String,
}

/// How many votes there were on a day.
#[derive(Debug, Clone, PartialEq, Eq, Queryable)]
pub(crate) struct Day {
    pub(crate) day: String,
    pub(crate) votes: i64,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = question)]
struct QuestionRow {
    id: i32,
    text: String,
    published_at: String,
    closes_at: Option<String>,
    #[diesel(select_expression = is_open())]
    #[diesel(select_expression_type = SqlLiteral<Bool>)]
    open: bool,
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = choice)]
struct ChoiceRow {
    id: i32,
    text: String,
    votes: i32,
}

fn is_open() -> SqlLiteral<Bool> {
    sql("closed_at IS NULL AND (closes_at IS NULL OR closes_at > CURRENT_TIMESTAMP)")
}

/// All polls, the newest first, in one snapshot of the database.
pub(crate) fn all(conn: &mut EfsSqliteConnection) -> QueryResult<Vec<Poll>> {
    conn.transaction(|conn| {
        let rows = question::table
            .order(question::id.desc())
            .select(QuestionRow::as_select())
            .load(conn)?;
        let choices: Vec<(i32, ChoiceRow)> = choice::table
            .order(choice::id)
            .select((choice::question_id, ChoiceRow::as_select()))
            .load(conn)?;
        let mut of_poll: HashMap<_, Vec<_>> = HashMap::new();
        for (question, choice) in choices {
            of_poll.entry(question).or_default().push(choice);
        }
        let polls = rows.into_iter().map(|row| {
            let own = of_poll.remove(&row.id).unwrap_or_default();
            Poll::new(row, own)
        });
        Ok(polls.collect())
    })
}

/// One poll.
pub(crate) fn find(conn: &mut EfsSqliteConnection, id: i32) -> QueryResult<Option<Poll>> {
    conn.transaction(|conn| poll(conn, id))
}

/// Inside a transaction, so that poll and choices are of one state.
fn poll(conn: &mut EfsSqliteConnection, id: i32) -> QueryResult<Option<Poll>> {
    let row = question::table
        .find(id)
        .select(QuestionRow::as_select())
        .first(conn)
        .optional()?;
    let Some(row) = row else { return Ok(None) };
    let choices = choice::table
        .filter(choice::question_id.eq(id))
        .order(choice::id)
        .select(ChoiceRow::as_select())
        .load(conn)?;
    Ok(Some(Poll::new(row, choices)))
}

impl Poll {
    fn new(row: QuestionRow, choices: Vec<ChoiceRow>) -> Self {
        let votes: i64 = choices.iter().map(|choice| i64::from(choice.votes)).sum();
        let choices = choices.into_iter().map(|choice| Choice {
            id: choice.id,
            text: choice.text,
            votes: choice.votes,
            permille: (i64::from(choice.votes) * 1000 + votes / 2)
                .checked_div(votes)
                .unwrap_or(0),
        });
        Self {
            id: row.id,
            question: row.text,
            published_at: row.published_at,
            closes_at: row.closes_at,
            open: row.open,
            votes,
            choices: choices.collect(),
        }
    }
}

/// Counts a vote, once for each key.
///
/// What can be refused, or was counted before, is found by reading, and no lock is taken for it. The
/// rest is looked at again with the lock in hand, for somebody may have been faster.
pub(crate) fn cast(
    conn: &mut EfsSqliteConnection,
    poll_id: i32,
    choice_id: i32,
    key: &str,
) -> QueryResult<Cast> {
    if let Some(settled) = conn.transaction(|conn| settled(conn, poll_id, choice_id, key))? {
        return Ok(settled);
    }
    conn.immediate_transaction(|conn| {
        if let Some(settled) = settled(conn, poll_id, choice_id, key)? {
            return Ok(settled);
        }
        diesel::insert_into(vote::table)
            .values((vote::choice_id.eq(choice_id), vote::idempotency_key.eq(key)))
            .execute(conn)?;
        diesel::update(choice::table.find(choice_id))
            .set(choice::votes.eq(choice::votes + 1))
            .execute(conn)?;
        Ok(poll(conn, poll_id)?.map_or(Cast::NoSuchPoll, Cast::Counted))
    })
}

/// What is to be said without counting anything; `None` if the vote is to be counted.
fn settled(
    conn: &mut EfsSqliteConnection,
    poll_id: i32,
    choice_id: i32,
    key: &str,
) -> QueryResult<Option<Cast>> {
    let Some(poll) = poll(conn, poll_id)? else {
        return Ok(Some(Cast::NoSuchPoll));
    };
    let counted: Option<i32> = vote::table
        .filter(vote::idempotency_key.eq(key))
        .select(vote::choice_id)
        .first(conn)
        .optional()?;
    // First of all: a client that asks again after the poll was closed has been counted all the same.
    if let Some(counted) = counted {
        return Ok(Some(if counted == choice_id {
            Cast::CountedBefore(poll)
        } else {
            Cast::KeyReused
        }));
    }
    if !poll.choices.iter().any(|choice| choice.id == choice_id) {
        return Ok(Some(Cast::NoSuchChoice));
    }
    Ok((!poll.open).then_some(Cast::Closed))
}

/// Adds a poll and returns its id; `None` if it would be closed from the beginning.
pub(crate) fn create(
    conn: &mut EfsSqliteConnection,
    draft: &Draft,
    actor: &str,
) -> QueryResult<Option<i32>> {
    if let Some(closes_at) = &draft.closes_at
        && !is_to_come(conn, closes_at)?
    {
        return Ok(None);
    }
    conn.immediate_transaction(|conn| {
        diesel::insert_into(question::table)
            .values((
                question::text.eq(&draft.question),
                question::closes_at.eq(&draft.closes_at),
            ))
            .execute(conn)?;
        let id = question::table
            .select(question::id)
            .order(question::id.desc())
            .first(conn)?;
        insert_choices(conn, id, &draft.choices)?;
        record(conn, id, actor, "created", &draft.question)?;
        Ok(Some(id))
    })
}

/// Changes a poll: its question and its end always, its choices until the first vote.
pub(crate) fn edit(
    conn: &mut EfsSqliteConnection,
    id: i32,
    draft: &Draft,
    actor: &str,
) -> QueryResult<Changed> {
    conn.immediate_transaction(|conn| {
        let Some(before) = poll(conn, id)? else {
            return Ok(Changed::NoSuchPoll);
        };
        if before.closes_at != draft.closes_at
            && let Some(closes_at) = &draft.closes_at
            && !is_to_come(conn, closes_at)?
        {
            return Ok(Changed::ClosesTooEarly);
        }
        let choices: Vec<&str> = before.choices.iter().map(|c| c.text.as_str()).collect();
        let has_new_choices = choices != draft.choices;
        if has_new_choices && before.votes > 0 {
            return Ok(Changed::HasVotes);
        }
        let mut changes = Vec::new();
        if before.question != draft.question {
            changes.push(format!("question was “{}”", before.question));
        }
        if before.closes_at != draft.closes_at {
            let end = draft.closes_at.as_deref().unwrap_or("never");
            changes.push(format!("closes {end}"));
        }
        if has_new_choices {
            changes.push(format!("choices were {}", choices.join(", ")));
        }
        if changes.is_empty() {
            return Ok(Changed::Nothing);
        }
        diesel::update(question::table.find(id))
            .set((
                question::text.eq(&draft.question),
                question::closes_at.eq(&draft.closes_at),
            ))
            .execute(conn)?;
        if has_new_choices {
            diesel::delete(choice::table.filter(choice::question_id.eq(id))).execute(conn)?;
            insert_choices(conn, id, &draft.choices)?;
        }
        record(conn, id, actor, "edited", &changes.join("; "))?;
        Ok(Changed::Done)
    })
}

/// Closes a poll, or opens it again (then without an end that has passed).
pub(crate) fn set_open(
    conn: &mut EfsSqliteConnection,
    id: i32,
    open: bool,
    actor: &str,
) -> QueryResult<Changed> {
    conn.immediate_transaction(|conn| {
        let Some(before) = poll(conn, id)? else {
            return Ok(Changed::NoSuchPoll);
        };
        if before.open == open {
            return Ok(Changed::Nothing);
        }
        let question = diesel::update(question::table.find(id));
        if open {
            let still_to_come = sql("CASE WHEN closes_at > CURRENT_TIMESTAMP THEN closes_at END");
            question
                .set((
                    question::closed_at.eq(None::<String>),
                    question::closes_at.eq(still_to_come),
                ))
                .execute(conn)?;
        } else {
            question
                .set(question::closed_at.eq(sql("CURRENT_TIMESTAMP")))
                .execute(conn)?;
        }
        let action = if open { "reopened" } else { "closed" };
        let votes = format!("after {} votes", before.votes);
        record(conn, id, actor, action, &votes)?;
        Ok(Changed::Done)
    })
}

/// Whether it is a moment of the calendar, and to come; SQLite makes 2 March of 30 February.
fn is_to_come(conn: &mut EfsSqliteConnection, moment: &str) -> QueryResult<bool> {
    let is_to_come = sql::<Bool>("coalesce(datetime(")
        .bind::<Text, _>(moment)
        .sql(") = ")
        .bind::<Text, _>(moment)
        .sql(", 0) AND ")
        .bind::<Text, _>(moment)
        .sql(" > CURRENT_TIMESTAMP");
    select(is_to_come).get_result(conn)
}

fn insert_choices(
    conn: &mut EfsSqliteConnection,
    question: i32,
    texts: &[String],
) -> QueryResult<()> {
    for text in texts {
        diesel::insert_into(choice::table)
            .values((choice::question_id.eq(question), choice::text.eq(text)))
            .execute(conn)?;
    }
    Ok(())
}

/// Adds to a poll's history.
pub(crate) fn record(
    conn: &mut EfsSqliteConnection,
    question: i32,
    actor: &str,
    action: &str,
    detail: &str,
) -> QueryResult<()> {
    diesel::insert_into(history::table)
        .values((
            history::question_id.eq(question),
            history::actor.eq(actor),
            history::action.eq(action),
            history::detail.eq(detail),
        ))
        .execute(conn)?;
    Ok(())
}

/// A poll, what was done to it, and its votes by day, all of one state of the database.
pub(crate) fn history_of(conn: &mut EfsSqliteConnection, id: i32) -> QueryResult<Option<History>> {
    conn.transaction(|conn| {
        let Some(poll) = poll(conn, id)? else {
            return Ok(None);
        };
        Ok(Some(History {
            poll,
            entries: entries(conn, id)?,
            days: days(conn, id)?,
        }))
    })
}

/// What was done to a poll, the newest first.
fn entries(conn: &mut EfsSqliteConnection, id: i32) -> QueryResult<Vec<Entry>> {
    history::table
        .filter(history::question_id.eq(id))
        .order(history::id.desc())
        .select(Entry::as_select())
        .limit(NEWEST)
        .load(conn)
}

/// How many votes a poll had on each day that had any, the newest first.
fn days(conn: &mut EfsSqliteConnection, id: i32) -> QueryResult<Vec<Day>> {
    let day = || sql::<Text>("substr(cast_at, 1, 10)");
    vote::table
        .inner_join(choice::table)
        .filter(choice::question_id.eq(id))
        .group_by(day())
        .select((day(), diesel::dsl::count_star()))
        .order(sql::<Text>("1 DESC"))
        .limit(NEWEST)
        .load(conn)
}

/// Whether there is any poll.
pub(crate) fn any(conn: &mut EfsSqliteConnection) -> QueryResult<bool> {
    select(exists(question::table.select(question::id))).get_result(conn)
}
