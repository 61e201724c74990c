//! The tables, as `migrations/` makes them.

diesel::table! {
    question (id) {
        id -> Integer,
        text -> Text,
        published_at -> Text,
        closes_at -> Nullable<Text>,
        closed_at -> Nullable<Text>,
    }
}

diesel::table! {
    choice (id) {
        id -> Integer,
        question_id -> Integer,
        text -> Text,
        votes -> Integer,
    }
}

diesel::table! {
    vote (id) {
        id -> Integer,
        choice_id -> Integer,
        idempotency_key -> Text,
        cast_at -> Text,
    }
}

diesel::table! {
    history (id) {
        id -> Integer,
        question_id -> Integer,
        happened_at -> Text,
        actor -> Text,
        action -> Text,
        detail -> Text,
    }
}

diesel::joinable!(choice -> question (question_id));
diesel::joinable!(vote -> choice (choice_id));
diesel::joinable!(history -> question (question_id));
diesel::allow_tables_to_appear_in_same_query!(question, choice, vote, history);
