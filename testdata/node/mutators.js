// The mutators of the issue tracker. They run on the client at once and on the API server for good, and say themselves
// where the server does something else. Takes the library and what model.js made of it.

export function defineTrackerMutators({ApplicationError, defineMutator, defineMutators}, zql) {
  const onServer = tx => tx.location === 'server';
  return defineMutators({
    issue: {
      // The server has the last word on the title.
      create: defineMutator(async ({tx, args: {id, title}}) => {
        await tx.mutate.issue.insert({
          id,
          title: onServer(tx) ? `${title} (seen by the server)` : title,
          open: true,
          priority: 1,
          creatorID: 'u1',
          created: Date.UTC(2024, 0, 2, 3, 4, 5, 678),
          modified: Date.UTC(2031, 0, 1),
        });
      }),
      // What comes of it depends on what is there.
      raise: defineMutator(async ({tx, args: {id, by}}) => {
        const issue = await tx.run(zql.issue.where('id', id).one());
        await tx.mutate.issue.update({id, priority: issue.priority + by});
      }),
      // The server does not want this.
      refused: defineMutator(async ({tx, args: {id}}) => {
        await tx.mutate.issue.update({id, title: 'never to stay'});
        if (onServer(tx)) {
          throw new ApplicationError('this is refused', {details: {why: 'a test'}});
        }
      }),
    },
  });
}
