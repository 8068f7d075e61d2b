//! Generated worlds in a real Postgres: the SQL is valid and leads to the same rows.

use testdata::postgres::shared;
use testdata::world::{ISSUES, MUSIC, Rng, data_sql, fill, schema_sql, transaction, transaction_sql};
use zql_spec::value::Value;

#[test]
fn transactions_mean_the_same_in_postgres() {
    let postgres = shared();
    for (seed, data) in [(1, &ISSUES), (2, &MUSIC)] {
        let mut rng = Rng::new(seed);
        let mut database = fill(data, &mut rng);
        let url = postgres.database().expect("a database");
        let run = |sql: &str| postgres.psql(&url, sql).unwrap_or_else(|error| panic!("{error}\n{sql}"));
        run(&schema_sql(data));
        run(&data_sql(data, &database));
        let mut sql = String::new();
        for _ in 0..60 {
            let transaction = transaction(data, &database, &mut rng);
            database.apply(&transaction);
            sql.push_str(&transaction_sql(data, &transaction));
        }
        run(&sql);
        for table in data.tables {
            // Keys have plain texts; how Postgres prints other values is not the point here.
            let key = |values: &Vec<Value>| {
                let text = |value: &Value| value.to_json().to_string().trim_matches('"').to_owned();
                values.iter().map(text).collect::<Vec<_>>().join("|")
            };
            let mut expected: Vec<String> = database.tables[table.name].keys().map(key).collect();
            let columns: Vec<String> = table.primary_key.iter().map(|name| format!("\"{name}\"")).collect();
            let found = run(&format!("SELECT {} FROM \"{}\"", columns.join(", "), table.name));
            let mut found: Vec<&str> = found.lines().collect();
            found.sort_unstable();
            expected.sort_unstable();
            assert_eq!(found, expected, "{}", table.name);
        }
    }
}
