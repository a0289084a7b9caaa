SELECT
  "t5"."n",
  CAST("t5"."at" AS VARCHAR) AS "at",
  IFF("t5"."s0", 1.0, 0.0) AS "s0",
  IFF("t5"."s1", 1.0, 0.0) AS "s1"
FROM (
  SELECT
    "t2"."n",
    "t2"."id",
    "t2"."t0",
    "t2"."t1",
    "t4"."at",
    "t4"."is",
    "t4"."s0",
    "t4"."s1"
  FROM "counterpoint_exposed" AS "t2"
  INNER JOIN (
    SELECT
      CAST("t1"."c""id; DROP" AS VARCHAR) AS "id",
      CAST("t1"."shipped at" AS TIMESTAMPTZ(6)) AS "at",
      TRUE AS "is",
      (
        CAST("t1"."state" AS VARCHAR) = 'open'
      ) AND TRUE AS "s0",
      (
        CAST("t1"."state" AS VARCHAR) = 'paid'
      )
      AND (
        TRUE AND (
          CAST("t1"."margin" AS DOUBLE) >= 1
        )
      ) AS "s1"
    FROM "shop"."orders" AS "t1"
  ) AS "t4"
    ON "t2"."id" = "t4"."id"
) AS "t5"
WHERE
  "t5"."at" >= "t5"."t0"
  AND "t5"."at" < "t5"."t1"
  AND "t5"."is"
  AND (
    "t5"."s0" OR "t5"."s1"
  )