//! The hashes of the protocol: xxHash32 of UTF-8 text under several seeds, put side by side.
//!
//! They identify queries and rows; they protect nothing. Query ids are chosen by clients and opaque to a
//! server, so [`ast_hash`] serves as the transformation hash, which tells whether a query still means
//! what it meant when a client last got it.

use xxhash_rust::xxh32::xxh32;

use crate::ast::Ast;
use crate::json::Json;
use crate::normal_form::normal_form;

/// xxHash32 with seed 0.
pub fn h32(text: &str) -> u32 {
    xxh32(text.as_bytes(), 0)
}

/// xxHash32 with seeds 0 and 1, the first in the high half.
pub fn h64(text: &str) -> u64 {
    let half = |seed| u64::from(xxh32(text.as_bytes(), seed));
    half(0) << 32 | half(1)
}

/// xxHash32 with seeds 0 to 3, the first in the highest quarter.
pub fn h128(text: &str) -> u128 {
    (0..4).fold(0, |hash, seed| hash << 32 | u128::from(xxh32(text.as_bytes(), seed)))
}

/// A number in lower-case base 36, as JavaScript's `toString(36)` prints it.
pub fn base36(mut number: u64) -> String {
    let mut digits = Vec::with_capacity(13);
    loop {
        let digit = (number % 36) as u8;
        digits.push(char::from(if digit < 10 { b'0' + digit } else { b'a' + digit - 10 }));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

/// The hash of a query: of the text of its normal form.
pub fn ast_hash(ast: &Json) -> String {
    base36(h64(&normal_form(ast).to_string()))
}

/// The transformation hash of a query that has no JSON of its own, such as one that permissions changed.
pub fn transformation_hash(ast: &Ast) -> String {
    ast_hash(&ast.to_json())
}

/// The id of a named query called with these arguments (a JSON array).
pub fn named_query_id(name: &str, args: &Json) -> String {
    base36(h64(&format!("{name}:{args}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_hashes() {
        assert_eq!(h32(""), 46947589);
        assert_eq!(h32("foo-task/9876"), 1549679698);
        assert_eq!(h32("a"), 1426945110);
        assert_eq!(h64(""), 201638359568529298);
        assert_eq!(h64("a"), 0x550d_7456_f514_706f);
        assert_eq!(base36(h64("a")), "1ak9gnrbcd7qn");
        assert_eq!(h64("abc"), 0x32d1_53ff_aa3d_a8ff);
        assert_eq!(base36(h64("abc")), "rtjjvs99c9of");
        assert_eq!(h64("hello zéro"), 18072360518589115830);
        assert_eq!(base36(0), "0");
        assert_eq!((h128("abc") >> 64) as u64, h64("abc"));
    }

    #[test]
    fn row_identities() {
        assert_eq!(h64(r#"["","issues","id","1"]"#), 0x6c54_0c13_56b0_966a);
        assert_eq!(h64(r#"["","t","a","x","b",2]"#), 0x14db_59ae_9aa4_4946);
        let units = ["1", "2", "3", "4"].map(|id| h64(&format!(r#"["","issues","id","{id}"]"#)));
        assert_eq!(units[1..], [0xded7_e32a_27d1_643b, 0x1216_e95c_9f5b_c80d, 0xdbc0_7cca_6b97_265a]);
        assert_eq!(units.iter().fold(0, |xor, unit| xor ^ unit), 0x7b55_7aaf_85ad_1c06);
    }

    #[test]
    fn queries() {
        let cases = [
            (r#"{"table":"issue"}"#, "2uh1iy5olazzo"),
            (r#"{"orderBy":[["id","asc"]],"limit":10,"table":"issue"}"#, "3sdkji50mbsf"),
            (
                r#"{"table":"issue","where":{"type":"simple","left":{"type":"column","name":"open"},"right":{"type":"literal","value":true},"op":"="}}"#,
                "3hxl2qnwi3ume",
            ),
            (
                r#"{"table":"issue","where":{"type":"simple","op":"=","left":{"type":"column","name":"open"},"right":{"type":"literal","value":true}}}"#,
                "a5tkinb5y5c",
            ),
            (
                r#"{"table":"issue","where":{"type":"and","conditions":[{"type":"simple","left":{"type":"column","name":"n"},"right":{"type":"literal","value":5},"op":"<"},{"type":"simple","left":{"type":"column","name":"n"},"right":{"type":"literal","value":1},"op":">"},{"type":"simple","left":{"type":"column","name":"b"},"right":{"type":"literal","value":null},"op":"IS"}]},"limit":5,"orderBy":[["created","desc"]]}"#,
                "1crnuwfk5yzaa",
            ),
            (
                r#"{"table":"issue","related":[{"system":"client","correlation":{"parentField":["id"],"childField":["issueId"]},"subquery":{"table":"comment","alias":"comments","limit":1}},{"system":"client","correlation":{"parentField":["ownerId"],"childField":["id"]},"subquery":{"table":"user","alias":"Owner"}}]}"#,
                "10158tailwm90",
            ),
            (
                r#"{"table":"issue","where":{"type":"correlatedSubquery","related":{"system":"client","correlation":{"parentField":["id"],"childField":["issueId"]},"subquery":{"table":"comment","alias":"zsubq_comments"}},"op":"EXISTS"}}"#,
                "323h25apbgm9z",
            ),
            (
                r#"{"table":"issue","start":{"row":{"n":1,"id":"x"},"exclusive":true},"orderBy":[["n","asc"]]}"#,
                "3tz3sbdp59wn7",
            ),
            (
                "{\"table\":\"t\",\"where\":{\"type\":\"simple\",\"op\":\"=\",\"left\":{\"type\":\"column\",\"name\":\"s\"},\"right\":{\"type\":\"literal\",\"value\":\"é😀\\n\\\"/\"}}}",
                "1tmyhe0swk37t",
            ),
            (r#"{"table":"issue","where":{"type":"or","conditions":[]}}"#, "2uh1iy5olazzo"),
            (r#"{"table":"issue","related":[]}"#, "11gr1p84rit4s"),
            (r#"{"table":"issue","orderBy":[]}"#, "3i96msb3kas8y"),
            (r#"{"table":"issues","orderBy":[["id","asc"]]}"#, "3w07tflzjgrd9"),
        ];
        for (ast, expected) in cases {
            assert_eq!(ast_hash(&Json::parse(ast).unwrap()), expected, "{ast}");
        }
    }

    #[test]
    fn internal_queries() {
        let fresh = r#"{"type":"simple","left":{"type":"column","name":"clientGroupID"},"op":"=","right":{"type":"literal","value":"cgC"}}"#;
        let jsonb = r#"{"op":"=","left":{"name":"clientGroupID","type":"column"},"type":"simple","right":{"type":"literal","value":"cgC"}}"#;
        let lmids = |condition: &str| {
            format!(
                r#"{{"schema":"","table":"zero_0.clients","where":{condition},"orderBy":[["clientGroupID","asc"],["clientID","asc"]]}}"#
            )
        };
        let results = |condition: &str| {
            format!(
                r#"{{"schema":"","table":"zero_0.mutations","where":{{"type":"and","conditions":[{condition}]}},"orderBy":[["clientGroupID","asc"],["clientID","asc"],["mutationID","asc"]]}}"#
            )
        };
        let hash = |text: String| ast_hash(&Json::parse(&text).unwrap());
        assert_eq!([hash(lmids(fresh)), hash(lmids(jsonb))], ["20wqdczrhfdxh", "2u5gxq66udcem"]);
        assert_eq!([hash(results(fresh)), hash(results(jsonb))], ["2vstnodu893uj", "2bwtbuvg8c6lq"]);
    }

    #[test]
    fn named_queries() {
        let cases = [
            ("issues", "[]", "3111ertu4u16a"),
            ("issueByID", r#"[{"id":"a1"}]"#, "21zppfnw04cw3"),
            ("x", r#"[1,null,"é"]"#, "3c9i46j1d7xvh"),
        ];
        for (name, args, expected) in cases {
            assert_eq!(named_query_id(name, &Json::parse(args).unwrap()), expected);
        }
    }
}
