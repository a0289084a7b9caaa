SELECT
  "t5"."n" AS "n",
  "t5"."value" AS "x",
  "t5"."rate" AS "rate"
FROM (
  SELECT
    "t2"."n" AS "n",
    "t2"."id" AS "id",
    "t2"."t0" AS "t0",
    "t2"."t1" AS "t1",
    "t4"."at" AS "at",
    "t4"."is" AS "is",
    "t4"."value" AS "value",
    "t4"."rate" AS "rate"
  FROM "counterpoint_exposed" AS "t2"
  INNER JOIN (
    SELECT
      CAST("t1"."c""id; DROP" AS Nullable(String)) AS "id",
      toTimeZone(CAST("t1"."shipped at" AS Nullable(DateTime64(6, 'UTC'))), 'UTC') AS "at",
      TRUE AS "is",
      CAST("t1"."margin" AS Nullable(Float64)) AS "value",
      CASE UPPER(TRIM(BOTH ' \t\n\r\v\f' FROM CAST("t1"."cur" AS Nullable(String))))
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
  AND isNotNull("t5"."value")