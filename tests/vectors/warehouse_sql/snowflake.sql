SELECT
  "t5"."n",
  SUM(
    IFF(
      (
        "t5"."at" >= "t5"."t0"
      ) AND (
        "t5"."at" < "t5"."t1"
      ) AND "t5"."m0_is",
      "t5"."m0_v",
      0.0
    )
  ) AS "m0",
  MAX(
    IFF(
      (
        "t5"."at" >= "t5"."t0"
      ) AND (
        "t5"."at" < "t5"."t1"
      ) AND "t5"."m1_is",
      1.0,
      0.0
    )
  ) AS "m1",
  SUM(
    IFF(
      (
        "t5"."at" >= "t5"."t0"
      ) AND (
        "t5"."at" < "t5"."t1"
      ) AND "t5"."m2_is",
      1.0,
      0.0
    )
  ) AS "m2",
  SUM(
    IFF(
      (
        "t5"."at" >= "t5"."t0"
      ) AND (
        "t5"."at" < "t5"."t1"
      ) AND "t5"."m3_is",
      "t5"."m3_v" * "t5"."m3_r",
      0.0
    )
  ) AS "m3",
  SUM(
    IFF(
      (
        "t5"."at" >= "t5"."t0"
      )
      AND (
        "t5"."at" < "t5"."t1"
      )
      AND "t5"."m3_is"
      AND (
        "t5"."m3_v" IS NOT NULL
      )
      AND (
        "t5"."m3_r" IS NULL
      ),
      1.0,
      0.0
    )
  ) AS "m3_unknown",
  SUM(
    IFF(
      (
        "t5"."at" >= "t5"."t0"
      ) AND (
        "t5"."at" < "t5"."t1"
      ) AND "t5"."m4_is",
      1.0,
      0.0
    )
  ) AS "m4",
  CAST(COUNT(
    DISTINCT IFF(
      (
        "t5"."at" >= "t5"."t0"
      ) AND (
        "t5"."at" < "t5"."t1"
      ) AND "t5"."m5_is",
      (
        DATE_PART('epoch', "t5"."at") + 3600
      ) - (
        (
          DATE_PART('epoch', "t5"."at") + 3600
        ) % 86400
      ),
      NULL
    )
  ) AS DOUBLE) AS "m5",
  SUM(
    IFF(
      (
        "t5"."at" >= "t5"."t0"
      ) AND (
        "t5"."at" < "t5"."t1"
      ) AND "t5"."m6_is",
      1.0,
      0.0
    )
  ) AS "m6"
FROM (
  SELECT
    "t2"."n",
    "t2"."id",
    "t2"."t0",
    "t2"."t1",
    "t4"."at",
    "t4"."m0_is",
    "t4"."m0_v",
    "t4"."m1_is",
    "t4"."m1_v",
    "t4"."m2_is",
    "t4"."m3_is",
    "t4"."m3_v",
    "t4"."m3_r",
    "t4"."m4_is",
    "t4"."m5_is",
    "t4"."m6_is"
  FROM "counterpoint_exposed" AS "t2"
  INNER JOIN (
    SELECT
      CAST("t1"."c""id; DROP" AS VARCHAR) AS "id",
      CAST("t1"."shipped at" AS TIMESTAMPTZ(6)) AS "at",
      TRUE AS "m0_is",
      CAST("t1"."margin" AS DOUBLE) AS "m0_v",
      TRUE AND CAST("t1"."state" AS VARCHAR) IN ('paid', 'it\'s') AS "m1_is",
      CAST("t1"."margin" AS DOUBLE) AS "m1_v",
      TRUE AND (
        CAST("t1"."margin" AS DOUBLE) >= 2
      ) AS "m2_is",
      TRUE AS "m3_is",
      CAST("t1"."margin" AS DOUBLE) AS "m3_v",
      CASE UPPER(TRIM(CAST("t1"."cur" AS VARCHAR), ' \t\n\r\f'))
        WHEN 'EUR'
        THEN 1.0
        WHEN 'USD'
        THEN 0.9
        ELSE NULL
      END AS "m3_r",
      TRUE AS "m4_is",
      TRUE AS "m5_is",
      TRUE AS "m6_is"
    FROM "shop"."orders" AS "t1"
  ) AS "t4"
    ON "t2"."id" = "t4"."id"
) AS "t5"
GROUP BY
  1