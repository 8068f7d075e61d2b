//! A case: rows, a query and transactions, as a file that can be read, changed and replayed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use zql_spec::ast::Ast;
use zql_spec::json::Json;
use zql_spec::naive::{Database, Operation, Row, Transaction};
use zql_spec::schema::ValueType;
use zql_spec::value::Value;

use super::dataset::{ColumnDef, DataSet, TableDef};

/// Everything that a comparison needs.
#[derive(Clone, Debug)]
pub struct Case {
    /// The tables.
    pub data: &'static DataSet,
    /// The rows at the beginning.
    pub database: Database,
    /// The query.
    pub ast: Ast,
    /// What happens then.
    pub transactions: Vec<Transaction>,
}

/// All cases under `testdata/regressions`, with their file names, sorted.
pub fn regressions() -> Result<Vec<(String, Case)>> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder())?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()?
        .into_iter()
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect();
    files.sort();
    let case = |path: PathBuf| {
        let text = std::fs::read_to_string(&path)?;
        let case = Case::parse(&text).with_context(|| format!("in {}", path.display()))?;
        Ok((path.file_name().unwrap_or_default().to_string_lossy().into_owned(), case))
    };
    files.into_iter().map(case).collect()
}

fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/regressions"))
}

impl Case {
    /// Writes the case under `testdata/regressions`; gives the path.
    pub fn save(&self, name: &str) -> Result<PathBuf> {
        let path = folder().join(format!("{name}.json"));
        std::fs::write(&path, self.print())?;
        Ok(path)
    }

    /// The case as JSON text, a row or operation a line.
    pub fn print(&self) -> String {
        let mut text = format!("{{\n\"data\": \"{}\",\n\"rows\": {{", self.data.name);
        let mut separator = "\n";
        for (table, rows) in &self.database.tables {
            if rows.is_empty() {
                continue;
            }
            let rows: Vec<String> = rows.values().map(|row| format!("    {}", values_json(row))).collect();
            text.push_str(&format!("{separator}  \"{table}\": [\n{}\n  ]", rows.join(",\n")));
            separator = ",\n";
        }
        text.push_str(&format!("\n}},\n\"ast\": {},\n\"transactions\": [", self.ast.to_json()));
        let transactions: Vec<String> = self
            .transactions
            .iter()
            .map(|transaction| {
                let operations: Vec<String> =
                    transaction.iter().map(|operation| format!("    {}", operation_json(operation))).collect();
                format!("\n  [\n{}\n  ]", operations.join(",\n"))
            })
            .collect();
        text.push_str(&transactions.join(","));
        text.push_str("\n]\n}\n");
        text
    }

    /// Reads what [`Case::print`] writes.
    pub fn parse(text: &str) -> Result<Case> {
        let json = Json::parse(text)?;
        let name = json.get("data").and_then(Json::as_str).context("no data set")?;
        let data = DataSet::by_name(name).with_context(|| format!("no data set {name}"))?;
        let mut database = Database::new(Arc::new(data.schema()));
        for (table, rows) in json.get("rows").and_then(Json::as_object).context("no rows")? {
            for row in rows.as_array().context("rows are an array")? {
                let row = row_of(table_of(data, table)?, row)?;
                database.apply(&[Operation::Insert { table: Arc::clone(table), row }]);
            }
        }
        let ast = Ast::parse_strict(json.get("ast").context("no ast")?)?;
        let transactions = json.get("transactions").and_then(Json::as_array).context("no transactions")?;
        let transaction = |json: &Json| {
            json.as_array().context("a transaction is an array")?.iter().map(|json| operation_of(data, json)).collect()
        };
        let transactions = transactions.iter().map(transaction).collect::<Result<_>>()?;
        Ok(Case { data, database, ast, transactions })
    }
}

fn table_of(data: &'static DataSet, name: &str) -> Result<&'static TableDef> {
    data.tables.iter().find(|table| table.name == name).with_context(|| format!("no table {name}"))
}

fn values_json(values: &[Value]) -> Json {
    Json::Array(values.iter().map(Value::to_json).collect())
}

fn operation_json(operation: &Operation) -> Json {
    let table = |table: &Arc<str>| Json::String(Arc::clone(table));
    Json::Array(match operation {
        Operation::Insert { table: name, row } => vec![Json::string("insert"), table(name), values_json(row)],
        Operation::Update { table: name, key, row } => {
            vec![Json::string("update"), table(name), values_json(key), values_json(row)]
        }
        Operation::Delete { table: name, key } => vec![Json::string("delete"), table(name), values_json(key)],
        Operation::Truncate { table: name } => vec![Json::string("truncate"), table(name)],
    })
}

fn operation_of(data: &'static DataSet, json: &Json) -> Result<Operation> {
    let parts = json.as_array().context("an operation is an array")?;
    let kind = parts.first().and_then(Json::as_str).context("no kind of operation")?;
    let name = parts.get(1).and_then(Json::as_str).context("no table")?;
    let (def, table) = (table_of(data, name)?, Arc::from(name));
    let key = || {
        let columns = def.primary_key.iter().filter_map(|name| def.columns.iter().find(|column| column.name == *name));
        values_of(columns, parts.get(2).context("no key")?)
    };
    Ok(match kind {
        "insert" => Operation::Insert { table, row: row_of(def, parts.get(2).context("no row")?)? },
        "update" => Operation::Update { table, key: key()?, row: row_of(def, parts.get(3).context("no row")?)? },
        "delete" => Operation::Delete { table, key: key()? },
        "truncate" => Operation::Truncate { table },
        other => bail!("unknown operation {other}"),
    })
}

fn row_of(table: &'static TableDef, json: &Json) -> Result<Row> {
    Ok(values_of(table.visible(), json)?.into())
}

fn values_of<'a>(columns: impl Iterator<Item = &'a ColumnDef>, json: &Json) -> Result<Vec<Value>> {
    let values = json.as_array().context("values are an array")?;
    let columns: Vec<&ColumnDef> = columns.collect();
    if columns.len() != values.len() {
        bail!("{} values for {} columns", values.len(), columns.len());
    }
    let value = |(column, json): (&&ColumnDef, &Json)| match (column.fill.value_type(), json) {
        (Some(ValueType::Json), json) if *json != Json::Null => Value::Json(json.to_string().into()),
        _ => Value::from_json(json),
    };
    Ok(columns.iter().zip(values).map(value).collect())
}

#[cfg(test)]
mod tests {
    use super::super::{ISSUES, MUSIC, QueryGenerator, Rng, fill, transaction};
    use super::*;

    #[test]
    fn printed_cases_read_back() {
        for data in [&ISSUES, &MUSIC] {
            for seed in 0..20 {
                let mut rng = Rng::new(seed);
                let database = fill(data, &mut rng);
                let ast = QueryGenerator::new(data, &database, rng.fork()).query();
                let transactions = (0..5).map(|_| transaction(data, &database, &mut rng)).collect();
                let case = Case { data, database, ast, transactions };
                let read = Case::parse(&case.print()).unwrap();
                assert_eq!(read.database.tables, case.database.tables);
                assert_eq!(read.ast, case.ast);
                assert_eq!(read.transactions, case.transactions);
            }
        }
    }

    #[test]
    fn the_committed_cases_are_readable() {
        regressions().unwrap();
    }
}
