//! `up`: brings everything up, applies the examples and shows what becomes of them.

use std::{
    io::{self, IsTerminal, Write},
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use rustix::termios::tcgetwinsize;

use crate::{
    screen::{self, Frame},
    stage::{Nodes, Place, Stage, built_operator, say},
    world::{JobRow, Observer, World},
};

/// The interval between two reads of the caches; usage in Postgres is read every fourth time.
const GLANCE: Duration = Duration::from_millis(250);
/// How long the examples may take to end.
const EXAMPLES_END_WITHIN: Duration = Duration::from_secs(240);

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The nodes to run on.
    #[arg(long, value_enum, default_value_t = Nodes::Auto)]
    nodes: Nodes,
    /// End when all examples have ended; fail unless each has ended as it says it should, with its usage in Postgres.
    #[arg(long)]
    until_done: bool,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<ExitCode> {
    let program = built_operator()?;
    let (nodes, operator) = (options.nodes, program.clone());
    let bring_up = move || Stage::bring_up(nodes, &operator, Place::Pod);
    let mut stage = tokio::task::spawn_blocking(bring_up).await??;
    let result = play(&mut stage, &program, options.until_done).await;
    stage.explain(result)
}

async fn play(stage: &mut Stage, program: &Path, until_done: bool) -> anyhow::Result<ExitCode> {
    stage.set_up(program).await?;
    let observer = Observer::start(stage.client().await?, stage.database_url()?).await?;
    stage.apply_jobs().await?;
    say(&format!("the operator writes its log to {}", stage.operator_log().display()));
    stage.invitation().iter().for_each(|line| say(line));
    watch(stage, &observer, until_done).await
}

/// Shows the world until the user has seen enough or, where that was asked for, until the examples have ended.
async fn watch(stage: &mut Stage, observer: &Observer, until_done: bool) -> anyhow::Result<ExitCode> {
    let mut view = if until_done { View::Lines(World::default()) } else { View::for_output() };
    let begun = Instant::now();
    let mut usage = Vec::new();
    let mut ticks = tokio::time::interval(GLANCE);
    for glance in 0_u64.. {
        ticks.tick().await;
        stage.check_operator()?;
        if glance.is_multiple_of(4) {
            usage = observer.usage().await?;
        }
        let world = observer.world(&usage);
        let progress = world.progress();
        let title = format!("Crofter on {} · {progress} · {} s", stage.setting(), begun.elapsed().as_secs());
        view.show(&world, &Frame { title, footer: stage.invitation() })?;
        if until_done && progress.complete() {
            return Ok(verdict(&world));
        }
        if until_done && begun.elapsed() > EXAMPLES_END_WITHIN {
            verdict(&world);
            bail!("after {} s: {progress}", EXAMPLES_END_WITHIN.as_secs());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints how each example has ended; a failure unless all did as they should.
fn verdict(world: &World) -> ExitCode {
    println!();
    screen::expectations(world).iter().for_each(|line| println!("{line}"));
    if world.jobs.iter().all(JobRow::as_expected) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Where the world is shown.
enum View {
    /// A terminal, all of it, redrawn when something has changed.
    Screen(FullScreen),
    /// A pipe, one line for each change; holds the last printed state.
    Lines(World),
}

impl View {
    fn for_output() -> Self {
        match FullScreen::enter() {
            Some(screen) => Self::Screen(screen),
            None => Self::Lines(World::default()),
        }
    }

    fn show(&mut self, world: &World, frame: &Frame) -> io::Result<()> {
        match self {
            Self::Screen(screen) => screen.draw(world, frame),
            Self::Lines(printed) => {
                screen::changes(printed, world).iter().for_each(|line| println!("{line}"));
                printed.clone_from(world);
                Ok(())
            }
        }
    }
}

/// The terminal's other screen. What was on the terminal before comes back when this is dropped.
struct FullScreen {
    drawn: Vec<String>,
}

impl FullScreen {
    /// `None` when the output is no terminal.
    fn enter() -> Option<Self> {
        let mut out = io::stdout();
        let entered = out.is_terminal() && out.write_all(b"\x1b[?1049h\x1b[?25l").is_ok();
        entered.then_some(Self { drawn: Vec::new() })
    }

    fn draw(&mut self, world: &World, frame: &Frame) -> io::Result<()> {
        let size = tcgetwinsize(io::stdout())?;
        let lines = screen::lines(world, frame, usize::from(size.ws_col), usize::from(size.ws_row));
        if lines != self.drawn {
            // In one write, over the last screen, so that nothing flickers.
            let text: String = lines.iter().map(|line| format!("{line}\x1b[K\r\n")).collect();
            let mut out = io::stdout();
            write!(out, "\x1b[H{}\x1b[J", text.trim_end_matches("\r\n"))?;
            out.flush()?;
            self.drawn = lines;
        }
        Ok(())
    }
}

impl Drop for FullScreen {
    fn drop(&mut self) {
        let mut out = io::stdout();
        // The terminal may be closed.
        drop(out.write_all(b"\x1b[?25h\x1b[?1049l").and_then(|()| out.flush()));
    }
}
