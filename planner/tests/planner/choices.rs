//! Which plans are chosen. The numbers are estimates; a change in them is a change of mind to look at.

use expect_test::{Expect, expect};
use planner::Planner;
use zql_spec::ast::{Ast, Condition, Direction, SimpleOperator};

use crate::tracker::*;

fn check(ast: &Ast, expected: Expect) {
    let directory = tempfile::tempdir().unwrap();
    let snapshot = tracker(&directory.path().join("replica.db"), 50, 20_000);
    expected.assert_eq(&Planner::new().explain(&resolve(ast, &snapshot), &snapshot).unwrap());
}

fn labelled(name: &str) -> Condition {
    exists("id", "issue", from("issue_label").filter(exists("label", "id", from("label").filter(equal("name", name)))))
}

#[test]
fn a_point_is_one_probe() {
    check(
        &from("issue").filter(equal("id", "i77")),
        expect![[r#"
        0 issue (root): 1 rows
          Scan ~1: SELECT n0."id", n0."title", n0."open", n0."owner", n0."priority", n0."modified", n0."_0_version" FROM "issue" AS n0 WHERE (n0."id" = ?1)
    "#]],
    );
}

#[test]
fn a_page_looks_its_relations_up() {
    let page = from("issue")
        .order("modified", Direction::Desc)
        .limit(50)
        .related("owner", "owner", "id", from("user"))
        .related("comments", "id", "issue", from("comment").order("created", Direction::Desc).limit(2));
    check(
        &page,
        expect![[r#"
        0 issue (root): 50 rows
          Scan ~50: SELECT n0."id", n0."title", n0."open", n0."owner", n0."priority", n0."modified", n0."_0_version" FROM "issue" AS n0 ORDER BY n0."modified" DESC, n0."id" ASC LIMIT ?1
        1 user (related owner of 0, 45 keys): 45 rows
          SemiJoin (hash of keys) ~45
            Scan ~50: SELECT n1."id", n1."name", n1."_0_version" FROM "user" AS n1
            ParentKeys ~45
        2 comment (related comments of 0, 50 keys): 61 rows
          Lookup by issue ~100: SELECT n2."id", n2."issue", n2."author", n2."body", n2."created", n2."_0_version" FROM "comment" AS n2 WHERE (n2."issue" = ?1) ORDER BY n2."created" DESC, n2."id" ASC LIMIT ?2
            ParentKeys ~50
    "#]],
    );
}

#[test]
fn a_selective_exists_drives() {
    check(
        &from("issue").filter(labelled("rare")),
        expect![[r#"
            0 issue (root): 200 rows
              Lookup by id ~1837: SELECT n0."id", n0."title", n0."open", n0."owner", n0."priority", n0."modified", n0."_0_version" FROM "issue" AS n0 WHERE (n0."id" = ?1)
                Distinct ~1837
                  Lookup by label ~1837: SELECT n1."issue" FROM "issue_label" AS n1 WHERE (n1."label" = ?1)
                    Scan ~1: SELECT n2."id" FROM "label" AS n2 WHERE (n2."name" = ?1)
            1 issue_label (exists e of 0, 200 keys): 200 rows
              Fetch ~18: SELECT n1."issue", n1."label", n1."_0_version" FROM "issue_label" AS n1 WHERE (n1._rowid_ = ?1)
                First 3 per key ~18
                  SemiJoin (hash of keys) ~18
                    Lookup by issue ~200: SELECT n1._rowid_, n1."label", n1."issue" FROM "issue_label" AS n1 WHERE (n1."issue" = ?1)
                      ParentKeys ~200
                    Scan ~1: SELECT n2."id" FROM "label" AS n2 WHERE (n2."name" = ?1)
            2 label (exists e of 1, 1 keys): 1 rows
              Lookup by id ~0: SELECT n2."id", n2."name", n2."_0_version" FROM "label" AS n2 WHERE ((n2."id" = ?1) AND (n2."name" = ?2)) LIMIT ?3
                ParentKeys ~1
        "#]],
    );
}

#[test]
fn a_page_probes_an_exists_that_mostly_holds() {
    let page =
        from("issue").order("modified", Direction::Desc).filter(exists("id", "issue", from("comment"))).limit(50);
    check(
        &page,
        expect![[r#"
        0 issue (root): 50 rows
          Scan ~50: SELECT n0."id", n0."title", n0."open", n0."owner", n0."priority", n0."modified", n0."_0_version" FROM "issue" AS n0 WHERE EXISTS (SELECT 1 FROM "comment" AS n1 WHERE (n1."issue" = n0."id")) ORDER BY n0."modified" DESC, n0."id" ASC LIMIT ?1
        1 comment (exists e of 0, 50 keys): 99 rows
          Lookup by issue ~100: SELECT n1."id", n1."issue", n1."author", n1."body", n1."created", n1."_0_version" FROM "comment" AS n1 WHERE (n1."issue" = ?1) LIMIT ?2
            ParentKeys ~50
    "#]],
    );
}

#[test]
fn a_disjunction_takes_each_branch_by_its_index() {
    let mine = Condition::Or(vec![equal("id", "i5"), equal("owner", "u7"), labelled("rare")]);
    check(
        &from("issue").filter(mine),
        expect![[r#"
            0 issue (root): 401 rows
              Fetch ~2229: SELECT n0."id", n0."title", n0."open", n0."owner", n0."priority", n0."modified", n0."_0_version" FROM "issue" AS n0 WHERE (n0._rowid_ = ?1)
                Distinct ~2229
                  Concat ~2229
                    Scan ~1: SELECT n0._rowid_ FROM "issue" AS n0 WHERE (n0."id" = ?1)
                    Scan ~391: SELECT n0._rowid_ FROM "issue" AS n0 WHERE (n0."owner" = ?1)
                    Lookup by id ~1837: SELECT n0._rowid_ FROM "issue" AS n0 WHERE (n0."id" = ?1)
                      Distinct ~1837
                        Lookup by label ~1837: SELECT n1."issue" FROM "issue_label" AS n1 WHERE (n1."label" = ?1)
                          Scan ~1: SELECT n2."id" FROM "label" AS n2 WHERE (n2."name" = ?1)
            1 issue_label (exists e of 0, 401 keys): 200 rows
              Fetch ~36: SELECT n1."issue", n1."label", n1."_0_version" FROM "issue_label" AS n1 WHERE (n1._rowid_ = ?1)
                First 3 per key ~36
                  SemiJoin (hash of keys) ~36
                    Lookup by issue ~401: SELECT n1._rowid_, n1."label", n1."issue" FROM "issue_label" AS n1 WHERE (n1."issue" = ?1)
                      ParentKeys ~401
                    Scan ~1: SELECT n2."id" FROM "label" AS n2 WHERE (n2."name" = ?1)
            2 label (exists e of 1, 1 keys): 1 rows
              Lookup by id ~0: SELECT n2."id", n2."name", n2."_0_version" FROM "label" AS n2 WHERE ((n2."id" = ?1) AND (n2."name" = ?2)) LIMIT ?3
                ParentKeys ~1
        "#]],
    );
}

#[test]
fn a_disjunction_without_indexes_is_marked() {
    let urgent = Condition::Or(vec![number("priority", SimpleOperator::Eq, 3.0), labelled("rare")]);
    check(
        &from("issue").filter(urgent),
        expect![[r#"
            0 issue (root): 4200 rows
              Filter (truth0 or exists1) ~5455
                MarkJoin exists1 (hash of keys) ~20000
                  Scan ~20000: SELECT (n0."priority" = ?1), n0."id", n0."title", n0."open", n0."owner", n0."priority", n0."modified", n0."_0_version" FROM "issue" AS n0
                  Distinct ~1837
                    Lookup by label ~1837: SELECT n1."issue" FROM "issue_label" AS n1 WHERE (n1."label" = ?1)
                      Scan ~1: SELECT n2."id" FROM "label" AS n2 WHERE (n2."name" = ?1)
            1 issue_label (exists e of 0, 4200 keys): 200 rows
              First 3 per key ~382
                SemiJoin (hash of keys) ~382
                  Lookup by label ~1837: SELECT n1."issue", n1."label", n1."_0_version" FROM "issue_label" AS n1 WHERE (n1."label" = ?1)
                    Scan ~1: SELECT n2."id" FROM "label" AS n2 WHERE (n2."name" = ?1)
                  ParentKeys ~4200
            2 label (exists e of 1, 1 keys): 1 rows
              Lookup by id ~0: SELECT n2."id", n2."name", n2."_0_version" FROM "label" AS n2 WHERE ((n2."id" = ?1) AND (n2."name" = ?2)) LIMIT ?3
                ParentKeys ~1
        "#]],
    );
}

/// What a comparison decides needs no EXISTS, and a limit no whole sort.
#[test]
fn a_window_over_a_disjunction_is_one_statement() {
    let most = Condition::Or(vec![exists("id", "issue", from("comment")), number("priority", SimpleOperator::Ge, 0.0)]);
    check(
        &from("issue").filter(most).order("title", Direction::Asc).limit(3),
        expect![[r#"
        0 issue (root): 3 rows
          Scan ~3: SELECT n0."id", n0."title", n0."open", n0."owner", n0."priority", n0."modified", n0."_0_version" FROM "issue" AS n0 WHERE ((n0."priority" >= ?1) OR EXISTS (SELECT 1 FROM "comment" AS n1 WHERE (n1."issue" = n0."id"))) ORDER BY n0."title" ASC, n0."id" ASC LIMIT ?2
        1 comment (exists e of 0, 3 keys): 3 rows
          Lookup by issue ~6: SELECT n1."id", n1."issue", n1."author", n1."body", n1."created", n1."_0_version" FROM "comment" AS n1 WHERE (n1."issue" = ?1) LIMIT ?2
            ParentKeys ~3
    "#]],
    );
}

#[test]
fn what_has_no_index_is_joined() {
    check(
        &from("user").filter(not_exists("id", "author", from("comment"))),
        expect![[r#"
            0 user (root): 0 rows
              Fetch ~0: SELECT n0."id", n0."name", n0."_0_version" FROM "user" AS n0 WHERE (n0._rowid_ = ?1)
                AntiJoin (hash of rows) ~0
                  Scan ~50: SELECT n0._rowid_, n0."id" FROM "user" AS n0
                  Scan (streamed) ~30000: SELECT n1."author" FROM "comment" AS n1
            1 comment (exists e of 0): no parent rows
        "#]],
    );
}

#[test]
fn many_parents_scan_their_children() {
    check(
        &from("issue").related("comments", "id", "issue", from("comment")),
        expect![[r#"
        0 issue (root): 20000 rows
          Scan ~20000: SELECT n0."id", n0."title", n0."open", n0."owner", n0."priority", n0."modified", n0."_0_version" FROM "issue" AS n0
        1 comment (related comments of 0, 20000 keys): 30000 rows
          SemiJoin (hash of keys) ~30000
            Scan (streamed) ~30000: SELECT n1."id", n1."issue", n1."author", n1."body", n1."created", n1."_0_version" FROM "comment" AS n1
            ParentKeys ~20000
    "#]],
    );
}
