SELECT
  "t5"."n" AS "n",
  CAST("t5"."at" AS Nullable(String)) AS "at",
  CASE WHEN "t5"."s0" THEN 1.0 ELSE 0.0 END AS "s0",
  CASE WHEN "t5"."s1" THEN 1.0 ELSE 0.0 END AS "s1"
FROM (
  SELECT
    "t2"."n" AS "n",
    "t2"."id" AS "id",
    "t2"."t0" AS "t0",
    "t2"."t1" AS "t1",
    "t4"."at" AS "at",
    "t4"."is" AS "is",
    "t4"."s0" AS "s0",
    "t4"."s1" AS "s1"
  FROM "counterpoint_exposed" AS "t2"
  INNER JOIN (
    SELECT
      CAST("t1"."c""id; DROP" AS Nullable(String)) AS "id",
      toTimeZone(CAST("t1"."shipped at" AS Nullable(DateTime64(6, 'UTC'))), 'UTC') AS "at",
      TRUE AS "is",
      (
        CAST("t1"."state" AS Nullable(String)) = 'open'
      ) AND TRUE AS "s0",
      (
        CAST("t1"."state" AS Nullable(String)) = 'paid'
      )
      AND (
        TRUE AND (
          CAST("t1"."margin" AS Nullable(Float64)) >= 1
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