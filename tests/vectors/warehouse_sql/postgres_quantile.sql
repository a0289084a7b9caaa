SELECT
  "t5"."n",
  "t5"."value" AS "x",
  "t5"."rate"
FROM (
  SELECT
    "t2"."n",
    "t2"."id",
    "t2"."t0",
    "t2"."t1",
    "t4"."at",
    "t4"."is",
    "t4"."value",
    "t4"."rate"
  FROM "counterpoint_exposed" AS "t2"
  INNER JOIN (
    SELECT
      CAST("t1"."c""id; DROP" AS VARCHAR) AS "id",
      CAST("t1"."shipped at" AS TIMESTAMPTZ(6)) AS "at",
      TRUE AS "is",
      CAST("t1"."margin" AS DOUBLE PRECISION) AS "value",
      CASE UPPER(TRIM(' 	
' FROM CAST("t1"."cur" AS VARCHAR)))
        WHEN 'EUR'
        THEN 1.0
        WHEN 'USD'
        THEN 0.9
        ELSE NULL
      END AS "rate"
    FROM "shop"."orders" AS "t1"
  ) AS "t4"
    ON "t2"."id" = "t4"."id"
) AS "t5"
WHERE
  "t5"."at" >= "t5"."t0"
  AND "t5"."at" < "t5"."t1"
  AND "t5"."is"
  AND "t5"."value" IS NOT NULL