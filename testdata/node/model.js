// The issue tracker of tracker.sql as a Zero schema, and its named queries. Takes the library as an argument, so that one
// definition serves every client version and the API server.

export function define(zero, options = {}) {
  const {boolean, createBuilder, createSchema, defineQueries, defineQuery, number, relationships, string, table} = zero;

  const user = table('user').columns({id: string(), name: string(), email: string().optional()}).primaryKey('id');
  const issue = table('issue')
    .columns({
      id: string(),
      title: string(),
      description: string().optional(),
      open: boolean(),
      priority: number(),
      // Another name on the client than on the server, as real applications have.
      creatorID: string().from('creator_id'),
      assigneeID: string().from('assignee_id').optional(),
      created: number(),
      modified: number(),
    })
    .primaryKey('id');
  const comment = table('comment')
    .columns({
      id: string(),
      issueID: string().from('issue_id'),
      creatorID: string().from('creator_id'),
      body: string(),
      created: number(),
    })
    .primaryKey('id');
  const label = table('label').columns({id: string(), name: string()}).primaryKey('id');
  const issueLabel = table('issueLabel')
    .from('issue_label')
    .columns({issueID: string().from('issue_id'), labelID: string().from('label_id')})
    .primaryKey('issueID', 'labelID');

  const schema = createSchema({
    ...options,
    tables: [user, issue, comment, label, issueLabel],
    relationships: [
      relationships(issue, ({one, many}) => ({
        creator: one({sourceField: ['creatorID'], destSchema: user, destField: ['id']}),
        assignee: one({sourceField: ['assigneeID'], destSchema: user, destField: ['id']}),
        comments: many({sourceField: ['id'], destSchema: comment, destField: ['issueID']}),
        labels: many(
          {sourceField: ['id'], destSchema: issueLabel, destField: ['issueID']},
          {sourceField: ['labelID'], destSchema: label, destField: ['id']},
        ),
      })),
      relationships(comment, ({one}) => ({
        issue: one({sourceField: ['issueID'], destSchema: issue, destField: ['id']}),
        creator: one({sourceField: ['creatorID'], destSchema: user, destField: ['id']}),
      })),
    ],
  });

  const zql = createBuilder(schema);
  const queries = defineQueries({
    issues: {
      // A list with two relations, ordered and cut.
      list: defineQuery(({args: {limit}}) =>
        zql.issue
          .related('creator')
          .related('labels')
          .orderBy('modified', 'desc')
          .limit(limit),
      ),
      // Each row occurs once.
      discussed: defineQuery(({args: {limit}}) =>
        zql.issue.related('comments').orderBy('id', 'asc').limit(limit),
      ),
      // One page: everything about one issue.
      page: defineQuery(({args: {id}}) =>
        zql.issue
          .where('id', id)
          .related('creator')
          .related('assignee')
          .related('labels')
          .related('comments', q => q.related('creator').orderBy('created', 'desc').limit(3))
          .one(),
      ),
      // EXISTS over a junction.
      labelled: defineQuery(({args: {name}}) =>
        zql.issue.whereExists('labels', q => q.where('name', name)).orderBy('id', 'asc'),
      ),
      // OR of columns and EXISTS. (The client itself has no NOT EXISTS.)
      mine: defineQuery(({args: {userID}}) =>
        zql.issue
          .where(({and, cmp, exists, or}) =>
            or(
              cmp('assigneeID', userID),
              and(cmp('creatorID', userID), cmp('open', true)),
              exists('comments', q => q.where('creatorID', userID).where('body', 'LIKE', 'Any news%')),
            ),
          )
          .orderBy('id', 'asc'),
      ),
    },
    // A query whose server side fails.
    failing: defineQuery(() => zql.issue.limit(1)),
  });
  return {schema, zql, queries, mustGetQuery: zero.mustGetQuery};
}
