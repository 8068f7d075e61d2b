//! The background writer: what the users of an issue tracker do, a few times a second.

use std::time::Duration;

use anyhow::Result;
use rand::Rng;
use testdata::tracker::Sizes;
use tokio_postgres::{Client, NoTls};

/// Issues that the writer made and keeps; older ones it deletes, so that a demo can run for days.
const KEPT_ISSUES: i64 = 200;

/// Of the newest issues, among how many something happens: about what a screen shows.
const ACTIVE_ISSUES: i64 = 30;

/// Writes until the connection or the task ends.
pub(super) async fn write(url: String, rate: f64) -> Result<()> {
    let (client, driver) = tokio_postgres::connect(&url, NoTls).await?;
    let driver = tokio::spawn(driver);
    let mut number: i64 =
        client.query_one("SELECT count(*) + (extract(epoch FROM now()) * 1000)::bigint FROM issue", &[]).await?.get(0);
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / rate.clamp(0.01, 1000.0)));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !driver.is_finished() {
        tick.tick().await;
        number += 1;
        act(&client, number).await?;
    }
    Ok(())
}

/// One commit.
async fn act(client: &Client, number: i64) -> Result<()> {
    let (action, place, user, label) = {
        let mut rng = rand::rng();
        (
            rng.random_range(0..100),
            rng.random_range(0..ACTIVE_ISSUES),
            format!("u{}", rng.random_range(0..Sizes::DEMO.users)),
            format!("l{}", rng.random_range(1..Sizes::DEMO.labels)),
        )
    };
    let target = client
        .query_opt("SELECT id FROM issue ORDER BY modified DESC, id LIMIT 1 OFFSET $1", &[&place])
        .await?
        .map_or_else(String::new, |row| row.get::<_, String>(0));
    match action {
        // Mostly people talk, which brings the issue to the top.
        0..50 => {
            client
                .execute(
                    "WITH said AS (INSERT INTO comment SELECT $1, id, $2, 'Looking into it.', now() FROM issue WHERE id = $3)
                     UPDATE issue SET modified = now() WHERE id = $3",
                    &[&format!("live-c{number}"), &user, &target],
                )
                .await?;
        }
        50..65 => {
            client.execute("UPDATE issue SET open = NOT open, modified = now() WHERE id = $1", &[&target]).await?;
        }
        65..80 => {
            client
                .execute(
                    "INSERT INTO issue_label SELECT id, $2 FROM issue WHERE id = $1 ON CONFLICT DO NOTHING",
                    &[&target, &label],
                )
                .await?;
        }
        80..90 => {
            client.execute("UPDATE issue SET assignee_id = $2 WHERE id = $1", &[&target, &user]).await?;
        }
        _ => {
            client
                .execute(
                    "WITH old AS (DELETE FROM issue WHERE id IN
                       (SELECT id FROM issue WHERE id LIKE 'live-%' ORDER BY created DESC OFFSET $3))
                     INSERT INTO issue VALUES ($1, 'Something new #' || $4::text, NULL, true, 2, $2, NULL, now(), now())",
                    &[&format!("live-{number}"), &user, &KEPT_ISSUES, &number.to_string()],
                )
                .await?;
        }
    }
    Ok(())
}
