// Runs the suite of the package in the working directory against BASE, all of it or the tests IDS, and prints a line of JSON
// per test.
import { pathToFileURL } from 'url'
import path from 'path'

const from = file => import(pathToFileURL(path.join(process.cwd(), file)))
const { runTests, getResults } = await from('client/runner.mjs')
const { determineTestResult } = await from('lib/display.mjs')
const { default: fetch } = await from('../node-fetch/lib/index.mjs')
const { default: suites } = await from('tests/index.mjs')

if (process.env.IDS) {
  const ids = new Set(process.env.IDS.split(','))
  suites.forEach(suite => { suite.tests = suite.tests.filter(test => ids.has(test.id)) })
}
console.error = () => {} // the runner writes there what it prints as results, too
await runTests(suites, fetch, false, process.env.BASE)
const results = getResults()
for (const suite of suites) {
  for (const test of suite.tests) {
    if (results[test.id] === undefined) continue
    const [, , sign] = determineTestResult(suites, test.id, results, !process.env.IDS)
    const detail = results[test.id] === true ? '' : String(results[test.id][1] ?? results[test.id])
    process.stdout.write(JSON.stringify({ suite: suite.id, id: test.id, kind: test.kind ?? 'required', passed: results[test.id] === true, sign, detail }) + '\n')
  }
}
process.exit(0)
