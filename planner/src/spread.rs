//! How the values of a column are spread, by a sample of its rows.
//!
//! An index tells how many rows a value has at the mean. What a constant is compared with may be far from it: nearly
//! all issues are closed, and hardly any has the highest priority. So columns that queries compare with constants
//! are sampled: values that many rows have are known by name, and some values part the others evenly.
//!
//! Reading a sample costs as much as [`PLACES`] look-ups; a spread takes some kilobytes whatever the table's size.

use engine::query::Comparison;
use engine::replica::{RowCodec, places};
use rusqlite::Connection;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use zql_spec::ast::{Literal, SimpleOperator};
use zql_spec::schema::{Table, ValueType};
use zql_spec::value::Value;

/// Places at which a table is read, and rows that are read in each: neighbours are often alike, so many places tell
/// more than many rows. Together they cost a quarter of a millisecond.
const PLACES: u32 = 128;
const PLACE_ROWS: i64 = 8;

/// Up to how many rows a table is read whole.
const WHOLE_ROWS: f64 = 2_048.0;

/// A value is common if it is met in this many places and this often, half as often again as values are at the mean, and by
/// more than so many standard deviations: below it chance decides.
const COMMON_PLACES: usize = 3;
const COMMON_ROWS: u32 = 8;
const COMMON_FACTOR: f64 = 1.5;
const COMMON_DEVIATIONS: f64 = 3.0;

/// Common values that are kept: those after them differ too little from the others to matter.
const COMMON_MAX: usize = 32;

/// By how much shares may differ before plans are made again: samples err by some tenths.
const RESEMBLING: f64 = 1.5;

/// Into how many parts the others are parted: three bits more than a range is worth.
const PARTS: usize = 64;

/// How the values of a column are spread.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Spread {
    /// Rows of the sample.
    pub(crate) rows: u32,
    /// Rows of it without a value.
    pub(crate) nulls: u32,
    /// Common values, sorted, and how many rows of the sample have them.
    pub(crate) common: Vec<(Value, u32)>,
    /// How many other values it has.
    pub(crate) others: u32,
    /// How many of these one row alone has.
    pub(crate) single: u32,
    /// Whether the sample is the table.
    pub(crate) whole: bool,
    /// Values that part all rows with a value evenly, sorted.
    pub(crate) parts: Vec<Value>,
}

/// Whether a column's values can be told apart well enough to be worth sampling.
pub(crate) fn is_sampled(table: &Table, column: usize) -> bool {
    let unique = table.unique_keys.iter().any(|key| key[..] == [column]);
    !unique && table.columns[column].value_type != ValueType::Json
}

/// Reads the spreads of some columns of a table that has about `rows` rows.
pub(crate) fn read(
    connection: &Connection,
    table: &std::sync::Arc<Table>,
    columns: &[usize],
    rows: f64,
) -> rusqlite::Result<Vec<Spread>> {
    let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let name = quote(&table.name);
    let names: Vec<String> = columns.iter().map(|&column| quote(&table.columns[column].name)).collect();
    let whole = rows <= WHOLE_ROWS;
    let limit = if whole { 2 * WHOLE_ROWS as i64 } else { PLACE_ROWS };
    let sql = format!("SELECT {} FROM {name} WHERE _rowid_ >= ?1 LIMIT {limit}", names.join(", "));
    let mut statement = connection.prepare(&sql)?;
    let mut samples: Vec<Sample> = columns.iter().map(|_| Sample::default()).collect();
    let codec = RowCodec::new(table, None);
    let mut read = 0;
    let places = if whole { vec![i64::MIN] } else { places(connection, &table.name, PLACES)? };
    for place in places {
        let mut found = statement.query([place])?;
        while let Some(row) = found.next()? {
            for (position, (sample, &column)) in samples.iter_mut().zip(columns).enumerate() {
                // A value that clients cannot be given equals no constant of theirs.
                let value = codec.value(column, row.get_ref(position)?).unwrap_or(Value::Null);
                sample.add(value, read / PLACE_ROWS);
            }
            read += 1;
        }
    }
    Ok(samples.into_iter().map(|sample| sample.spread(whole)).collect())
}

/// Values of a column as they are read.
#[derive(Default)]
struct Sample {
    rows: u32,
    nulls: u32,
    values: Vec<(Value, i64)>,
}

impl Sample {
    fn add(&mut self, value: Value, place: i64) {
        self.rows += 1;
        if value.is_null() {
            self.nulls += 1;
        } else {
            self.values.push((value, place));
        }
    }

    fn spread(mut self, whole: bool) -> Spread {
        let mut met: FxHashMap<&Value, (u32, FxHashSet<i64>)> = FxHashMap::default();
        for (value, place) in &self.values {
            let (rows, places) = met.entry(value).or_default();
            *rows += 1;
            places.insert(*place);
        }
        let mean = self.values.len() as f64 / met.len().max(1) as f64;
        let usual = (COMMON_FACTOR * mean).max(mean + COMMON_DEVIATIONS * mean.sqrt());
        let is_common =
            |rows: u32, places: usize| rows >= COMMON_ROWS && places >= COMMON_PLACES && f64::from(rows) > usual;
        let mut common: Vec<(Value, u32)> = met
            .iter()
            .filter(|(_, (rows, places))| is_common(*rows, places.len()))
            .map(|(value, (rows, _))| ((*value).clone(), *rows))
            .collect();
        common.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| one.0.cmp(&other.0)));
        common.truncate(COMMON_MAX);
        common.sort_by(|one, other| one.0.cmp(&other.0));
        let single = met.values().filter(|(rows, _)| *rows == 1).count() as u32;
        let others = (met.len() - common.len()) as u32;
        drop(met);
        self.values.sort_by(|one, other| one.0.cmp(&other.0));
        let count = self.values.len().min(PARTS);
        let part = |part: usize| self.values[part * self.values.len() / count].0.clone();
        let parts = (0..count).map(part).collect();
        Spread { rows: self.rows, nulls: self.nulls, common, others, single, whole, parts }
    }
}

impl Spread {
    /// The share of a table's rows for which a comparison holds, if a spread tells. `values` is how many values the column
    /// has, if that is known better.
    pub(crate) fn share(&self, comparison: &Comparison, rows: f64, values: Option<f64>) -> Option<f64> {
        use SimpleOperator as Op;
        let set = 1.0 - self.of_sample(self.nulls);
        let equal = |value: &Value| self.equal(value, rows, values);
        let share = match (comparison.op, &comparison.literal) {
            (Op::Is, Literal::Value(Value::Null)) => 1.0 - set,
            (Op::IsNot, Literal::Value(Value::Null)) => set,
            (_, Literal::Value(Value::Null)) => return None,
            (Op::Eq | Op::Is, Literal::Value(value)) => equal(value),
            (Op::Ne, Literal::Value(value)) => set - equal(value),
            (Op::IsNot, Literal::Value(value)) => 1.0 - equal(value),
            (Op::In, Literal::List(list)) => list.iter().map(equal).sum(),
            (Op::NotIn, Literal::List(list)) => set - list.iter().map(equal).sum::<f64>(),
            (Op::Lt, Literal::Value(value)) => set * self.below(value, false)?,
            (Op::Le, Literal::Value(value)) => set * self.below(value, true)?,
            (Op::Gt, Literal::Value(value)) => set * (1.0 - self.below(value, true)?),
            (Op::Ge, Literal::Value(value)) => set * (1.0 - self.below(value, false)?),
            _ => return None,
        };
        // Nothing is taken to be impossible: a sample misses what is rare.
        Some(share.clamp(0.5 / rows.max(1.0), 1.0))
    }

    /// Whether plans made with the one are good with the other.
    pub(crate) fn resembles(&self, other: &Spread) -> bool {
        let near = |one: f64, other: f64| one <= other * RESEMBLING + 0.02 && other <= one * RESEMBLING + 0.02;
        let alike = |(known, new): (&(Value, u32), &(Value, u32))| {
            known.0 == new.0 && near(self.of_sample(known.1), other.of_sample(new.1))
        };
        // A value that many rows have stands at several of the parts.
        let shifted = |(position, part): (usize, &Value)| {
            let place = position as f64 / other.parts.len() as f64;
            let (Some(first), Some(last)) = (self.below(part, false), self.below(part, true)) else { return true };
            !near(place.clamp(first, last), place)
        };
        near(self.of_sample(self.nulls), other.of_sample(other.nulls))
            && self.common.len() == other.common.len()
            && self.common.iter().zip(&other.common).all(alike)
            && !other.parts.iter().enumerate().any(shifted)
    }

    fn of_sample(&self, rows: u32) -> f64 {
        f64::from(rows) / f64::from(self.rows.max(1))
    }

    /// The share of rows that have a value.
    fn equal(&self, value: &Value, rows: f64, values: Option<f64>) -> f64 {
        if let Ok(place) = self.common.binary_search_by(|(common, _)| common.cmp(value)) {
            return self.of_sample(self.common[place].1);
        }
        let of_common: u32 = self.common.iter().map(|(_, rows)| rows).sum();
        let left = f64::from(self.rows.saturating_sub(self.nulls + of_common));
        if left == 0.0 {
            return 0.5 / f64::from(self.rows.max(1)) / if self.whole { rows.max(1.0) } else { 1.0 };
        }
        let (others, single) = (f64::from(self.others), f64::from(self.single));
        let estimated = if self.whole {
            others
        } else {
            // Values met once stand for others that were not met (Haas and Stokes).
            let of_table = rows * left / f64::from(self.rows);
            left * others / (left - single + single * left / of_table.max(left))
        };
        let known = values.map(|values| values - self.common.len() as f64);
        left / f64::from(self.rows) / known.unwrap_or(estimated).max(others).max(1.0)
    }

    /// The share of the rows with a value that lies below another one; that may be equal to it if `inclusive`.
    fn below(&self, value: &Value, inclusive: bool) -> Option<f64> {
        let parts = self.parts.len();
        let lower = self.parts.partition_point(|part| if inclusive { part <= value } else { part < value });
        // Within half a part nothing is known.
        let half = 0.5 / parts as f64;
        (parts > 0).then(|| (lower as f64 / parts as f64).clamp(half, 1.0 - half))
    }
}

/// What a sample of a column showed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SpreadStatistics {
    /// Rows of the sample.
    pub rows: u32,
    /// Rows of it without a value.
    pub nulls: u32,
    /// Values that many rows have, and how many of the sample.
    pub common: Vec<(Json, u32)>,
    /// How many other values it has.
    pub others: u32,
    /// How many of these one row alone has.
    pub single: u32,
    /// Whether the sample is the table.
    pub whole: bool,
    /// Values that part all rows with a value evenly.
    pub parts: Vec<Json>,
}

impl SpreadStatistics {
    pub(crate) fn of(spread: &Spread) -> Self {
        let json = |value: &Value| match value {
            Value::Null => Json::Null,
            Value::Bool(bool) => Json::from(*bool),
            Value::Number(number) => Json::from(*number),
            Value::String(text) | Value::Json(text) => Json::from(&**text),
        };
        SpreadStatistics {
            rows: spread.rows,
            nulls: spread.nulls,
            common: spread.common.iter().map(|(value, rows)| (json(value), *rows)).collect(),
            others: spread.others,
            single: spread.single,
            whole: spread.whole,
            parts: spread.parts.iter().map(json).collect(),
        }
    }

    pub(crate) fn spread(&self) -> Spread {
        // An infinite number is written as null: it lies above all others.
        let value = |json: &Json| match json {
            Json::Bool(bool) => Value::Bool(*bool),
            Json::String(text) => Value::string(text.as_str()),
            json => Value::Number(json.as_f64().unwrap_or(f64::INFINITY)),
        };
        Spread {
            rows: self.rows,
            nulls: self.nulls,
            common: self.common.iter().map(|(json, rows)| (value(json), *rows)).collect(),
            others: self.others,
            single: self.single,
            whole: self.whole,
            parts: self.parts.iter().map(value).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(values: impl IntoIterator<Item = Value>) -> Spread {
        let mut sample = Sample::default();
        values.into_iter().enumerate().for_each(|(row, value)| sample.add(value, row as i64 / PLACE_ROWS));
        sample.spread(false)
    }

    fn compare(op: SimpleOperator, value: Value) -> Comparison {
        Comparison { column: 0, op, literal: Literal::Value(value), place: Default::default() }
    }

    fn share(spread: &Spread, op: SimpleOperator, value: Value) -> f64 {
        spread.share(&compare(op, value), 1e6, None).unwrap()
    }

    /// Whether an estimate is within a quarter of the truth.
    fn near(estimate: f64, truth: f64) -> bool {
        estimate <= truth * 1.25 && truth <= estimate * 1.25
    }

    #[test]
    fn values_are_as_common_as_they_were_met() {
        use SimpleOperator as Op;
        // Half the rows are `a`, a quarter is null, and all others have values of their own.
        let spread = sample((0..1024).map(|row| match row % 4 {
            0 => Value::Null,
            1 | 2 => Value::string("a"),
            _ => Value::string(format!("b{row}")),
        }));
        assert!(near(share(&spread, Op::Eq, Value::string("a")), 0.5), "{spread:?}");
        assert!(near(share(&spread, Op::Ne, Value::string("a")), 0.25));
        assert!(near(share(&spread, Op::Is, Value::Null), 0.25));
        assert!(near(share(&spread, Op::IsNot, Value::Null), 0.75));
        // A quarter of a million values with a row each.
        assert!(near(share(&spread, Op::Eq, Value::string("b7")), 1e-6));
        assert!(near(share(&spread, Op::Eq, Value::string("unheard of")), 1e-6));
        // That the index knows better is believed.
        let known = spread.share(&compare(Op::Eq, Value::string("c")), 1e6, Some(25_000.0)).unwrap();
        assert!(near(known, 1e-5), "{known}");
    }

    #[test]
    fn values_that_are_alike_are_not_told_apart() {
        let spread = sample((0..1024).map(|row| Value::Number(f64::from(row * 7 % 10))));
        assert_eq!(spread.common, []);
        for value in 0..10 {
            assert!(near(share(&spread, SimpleOperator::Eq, Value::Number(f64::from(value))), 0.1));
        }
        // Nor are values that chance met more often.
        let mut random = 7_u64;
        let spread = sample((0..1024).map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            Value::Number((random >> 33) as f64 % 200.0)
        }));
        assert!(spread.common.len() < 3, "{spread:?}");
        assert!(near(share(&spread, SimpleOperator::Eq, Value::Number(201.0)), 1.0 / 200.0));
        // Neighbours that are alike are no common value.
        let spread = sample((0..1024).map(|row| Value::Number(f64::from(row / 16))));
        assert_eq!(spread.common, []);
    }

    #[test]
    fn ranges_are_as_wide_as_they_are() {
        use SimpleOperator as Op;
        // Squares: most are small.
        let spread = sample((0..1024).map(|row| Value::Number(f64::from(row * row))));
        for (root, below) in [(512.0, 0.5), (900.0, 0.88), (100.0, 0.1)] {
            let square = Value::Number(root * root);
            assert!(near(share(&spread, Op::Lt, square.clone()), below), "{root}");
            assert!(near(share(&spread, Op::Ge, square), 1.0 - below), "{root}");
        }
        assert!(share(&spread, Op::Gt, Value::Number(1e9)) < 0.01);
        assert!(share(&spread, Op::Lt, Value::Number(-1.0)) < 0.01);
    }

    #[test]
    fn a_column_without_values_has_a_spread_too() {
        let spread = sample((0..100).map(|_| Value::Null));
        assert!(share(&spread, SimpleOperator::Eq, Value::string("a")) < 0.01);
        assert_eq!(spread.share(&compare(SimpleOperator::Lt, Value::string("a")), 100.0, None), None);
        assert!(sample([]).share(&compare(SimpleOperator::Eq, Value::string("a")), 0.0, None).is_some());
    }
}
